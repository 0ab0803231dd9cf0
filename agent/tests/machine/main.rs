//! One agent, as its customers, its owner and its host see it.

mod echo;
mod world;
