//! One agent, as its customers, its owner and its host see it.

mod admission;
mod attempts;
mod echo;
mod faults;
mod inputs;
mod memory;
mod owner;
mod simulation;
mod sizes;
mod world;
