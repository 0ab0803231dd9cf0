//! One agent, as its customers, its owner and its host see it.

mod admission;
mod attempts;
mod bunker;
mod deleted_agent;
mod echo;
mod expired;
mod faults;
mod inputs;
mod memory;
mod owner;
mod signer;
mod signer_idle;
mod simulation;
mod sizes;
mod stored_result;
mod world;
