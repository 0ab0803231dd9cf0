//! One agent, as its customers, its owner and its host see it.

mod admission;
mod attempts;
mod bunker;
mod echo;
mod faults;
mod inputs;
mod memory;
mod owner;
mod signer;
mod simulation;
mod sizes;
mod storing;
mod world;
