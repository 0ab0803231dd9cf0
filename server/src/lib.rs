//! The native host of the relay: sockets, storage, configuration, command line, metrics.
//!
//! It holds no relay rule: those live in `relay-engine`, whose machine this crate feeds and drains.
//!
//! Choose [`log_store::LogBackend`] unless something speaks for [`lmdb::LmdbBackend`]: it writes down to a hundredth of the bytes and costs a third to a
//! tenth of the CPU where clients publish (`bench/README.md`). LMDB has been in use for longer, several processes may write its folder at once, it opens at
//! once however many events there are, and a small folder needs less of the disk.
//!
//! | module | role |
//! |---|---|
//! | [`agents`] | agents in this process: their calls over HTTP |
//! | [`cli`] | the command line: serve, import, export, scan, delete, sync, stream, router, info, verify-db, db convert, config, agent, blossom, market |
//! | [`config`] | settings by flags, environment and file |
//! | `blossom` | blobs in this process |
//! | [`embed`], `handle` | the server embedded in another program; events and streams without a socket |
//! | `net` | one listener; HTTP and WebSocket on every connection |
//! | `shard` | a thread with its own machine and connections, and its event loop |
//! | `writer`, `foreign_commits` | the one thread that writes: group commit, sweeps; what other processes have stored |
//! | [`log_store`] | the default store, on files: a log and pages of keys |
//! | [`lmdb`] | a store in LMDB |
//! | `served` | commands change a folder through the relay that serves it, where one process writes it |
//! | `convert` | a database is copied into one of another engine and replaced by it |
//! | `outcomes` | what became of events that were given to it |
//! | `file_lock` | locks of files |
//! | `permits` | who may work now: fair turns of transfers of blobs, and of requests to the market |
//! | `market` | the registry of job providers, which follows the relay's stream |
//! | `sync` | this relay as a client of other relays: what one side lacks is copied (NIP-77), or all is followed live |
//! | `metrics` | what the process reports about itself; its documents are `relay-site`'s |

pub mod agents;
mod blossom;
mod cached;
pub mod cli;
pub mod config;
mod convert;
pub mod embed;
mod event_reader;
mod file_lock;
mod foreign_commits;
mod handle;
mod host;
pub mod lmdb;
pub mod log_store;
mod log_throttle;
mod market;
mod metrics;
mod net;
mod outcomes;
mod permits;
mod retention;
mod serve;
mod serve_lock;
mod served;
mod shard;
mod signals;
mod sync;
mod writer;
