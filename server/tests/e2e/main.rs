//! The real binary, from outside: as clients, operators and power cuts see it.

#![allow(clippy::print_stdout, reason = "what a failing test has to say goes where cargo shows it")]

mod addresses;
mod agents;
mod bad_input;
mod beside;
mod blossom;
mod closing;
mod command_line;
mod conversion;
mod crash;
mod few_files;
mod full_disk;
mod harness;
mod http;
mod nostr_sdk_client;
mod one_folder;
mod real_events;
mod removal;
mod retention;
mod semantics;
mod small_disk;
mod sockets;
mod stopping;
mod stream;
mod sync;
mod sync_wire;
