//! The object without workerd: over SQLite in memory and sockets that are queues, held to the same semantics
//! suite as every host, while it forgets everything it may forget between any two messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod native {
    mod attachments;
    mod consumers;
    mod held;
    mod memory;
    mod semantics;
    mod shards;
    mod sqlite;
    mod sweeping;
    mod world;
}
