//! One agent, as its customers, its owner and its host see it.

mod admission;
mod attempts;
mod bunker;
mod echo;
mod expired;
mod faults;
mod inputs;
mod memory;
mod owner;
mod signer;
mod signer_at_leisure;
mod simulation;
mod sizes;
mod storing;
mod tombstone;
mod world;
