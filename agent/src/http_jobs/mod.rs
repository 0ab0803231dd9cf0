//! Jobs over HTTP, for buyers without Nostr: `POST /agent/{npub}/jobs`.
//!
//! An [`Order`] becomes a job request (NIP-90) of a key that is made for it, which the host publishes as if a client had. So the
//! job is an ordinary one: durable, in the agent's history, paid by the same invoices. Its answers are read from the relay
//! ([`Progress`]) and told as HTTP ([`answer`]): `402` with an L402 challenge, then the result as JSON or as server-sent events.
//!
//! What the buyer comes back with is a [`Token`], which the relay signs and does not store. It commits to the invoice's payment
//! hash, so the preimage proves that its bearer has paid; that the money has arrived the agent's own wallet says.
//!
//! ```text
//! POST order                    402  WWW-Authenticate: L402 macaroon="<token>", invoice="<bolt11>"
//!   pay the invoice
//! POST  Authorization: L402 <token>:<preimage>      200 with the result, or 202 while the job goes on: ask again
//! ```

pub mod answer;
mod conversation;
mod limiter;
mod order;
mod progress;
mod token;
mod wanted;

pub use conversation::{Conversation, Step};
pub use limiter::Limiter;
pub use order::{Body, Order};
pub use progress::{Payment, Progress, filters};
pub use token::{Authorization, Secret, Token};
pub use wanted::Wanted;

/// Seconds for which a request's answers can be asked for; then its event expires (NIP-40).
pub const JOB_SECONDS: u64 = 86_400;
/// Seconds for which an answer is waited for, unless the request says otherwise (`?wait=`), and the most.
pub const WAIT_SECONDS: u64 = 25;
/// See [`WAIT_SECONDS`].
pub const WAIT_SECONDS_MAX: u64 = 50;
/// Seconds after which a stream of server-sent events ends; the buyer may ask again.
pub const STREAM_SECONDS: u64 = 600;
