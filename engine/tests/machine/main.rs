//! The relay machine as a host drives it. One program, because each would have the whole machine compiled for itself.

mod bounds;
mod commits;
mod costs;
mod deliveries;
mod filters;
mod members;
mod neg;
mod neg_load;
mod neg_prepared;
mod outboxes;
mod query_memory;
mod replays;
mod scheduler;
mod store_errors;
mod streams;
