//! The shell over workerd: everything that touches JavaScript, and as little else as can be.

mod entry;
mod js;
mod object;
mod shards;
mod sql;
mod variables;
