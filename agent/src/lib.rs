//! Agents: programs with a Nostr identity that answer job requests (NIP-90), beside the relay.
//!
//! Everything here is **pure** (sans-I/O): time, randomness, secrets and an SQL connection are arguments, and what an agent
//! wants from the world is polled as [`machine::Effect`]s. The hosts, `relay-server` and `relay-edge`, carry the effects
//! out. One [`machine::Agent`] is one agent with a database of its own; a [`router::Router`] beside the relay knows all agents
//! of a host and passes events to them.
//!
//! ```text
//! manifest   what an agent is: parsed, validated, converted from other formats
//! identity   keys (NIP-06, NIP-19), signing; cipher: NIP-44 and NIP-04
//! job        what a job is and the states it passes through; knows nothing of NIP-90
//! nip90      job requests, feedback, results and announcements as Nostr events
//! exchange   asking somebody over a relay
//! bolt11     invoices; lnurl: Lightning addresses, and what their services say
//! nip46      asking a remote signer; nip47: asking a wallet; nip57: zap receipts
//! payment    what is asked for a job, and when the wallet is asked; quotes: how many invoices an address of Blossom's may have
//! executor   what does the work: echo, text tools, OpenAI-compatible endpoints, webhooks, MCP, Workers AI
//! fetch      where calls may go: URLs, addresses, redirects
//! store      the tables of one agent
//! machine    one agent: accepts events, runs jobs, publishes results
//! router     all agents of a host: who gets which event, heartbeats, deliveries that survive a crash
//! totals     what all agents of a host have counted together
//! api        the HTTP API, without HTTP; http_jobs: jobs that are ordered over it, and paid by L402
//! testing    (feature `testing`) SQLite in memory, a host that plays the relay
//! ```

pub mod api;
pub mod bolt11;
pub mod cipher;
pub mod exchange;
pub mod executor;
pub mod fetch;
pub mod http_jobs;
pub mod identity;
pub mod job;
pub mod lnurl;
pub mod machine;
pub mod manifest;
pub mod nip46;
pub mod nip47;
pub mod nip57;
pub mod nip90;
pub mod payment;
pub mod quotes;
pub mod router;
pub mod secrets;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod totals;
