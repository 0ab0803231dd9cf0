//! The object without workerd: over SQLite in memory, with queues as sockets. It runs the same semantics suite as every
//! host, also while it hibernates before every third tick.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod native {
    mod addresses;
    mod agents;
    mod agents_hostile;
    mod agents_removed;
    mod agents_world;
    mod attachments;
    mod blossom;
    mod blossom_bucket;
    mod blossom_model;
    mod blossom_worker;
    mod blossom_world;
    mod consumers;
    mod market;
    mod memory;
    mod pull;
    mod semantics;
    mod shards;
    mod sqlite;
    mod sweeping;
    mod ticks;
    mod unanswered;
    mod undelivered;
    mod used_auth_events;
    mod world;
}
