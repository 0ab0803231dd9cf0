//! Sockets: HTTP on every connection, WebSocket where a client asks for it.
//!
//! A shard's thread reads heads, writes answers and serves WebSockets; what an endpoint has to do beyond handing out a
//! finished document is done on the runtime of `api`.

pub(crate) mod accept;
pub(crate) mod addresses;
mod admin;
mod agents;
pub(crate) mod api;
mod blossom;
pub(crate) mod conn;
pub(crate) mod deadline;
pub(crate) mod descriptors;
pub(crate) mod document_listener;
mod forwarded;
pub(crate) mod http;
mod http_jobs;
mod market;
pub(crate) mod metrics_listener;
mod oversize_filter;
mod proxy_protocol;
pub(crate) mod response;
mod upgrade;
pub(crate) mod ws_read;
pub(crate) mod ws_write;

#[cfg(test)]
mod http_tests;
