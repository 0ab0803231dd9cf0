//! One agent, as its customers, its owner and its host see it.

mod admission;
mod attempts;
mod echo;
mod inputs;
mod owner;
mod world;
