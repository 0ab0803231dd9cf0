//! Sockets: HTTP on every connection, WebSocket where a client asks for it.

pub(crate) mod accept;
pub(crate) mod conn;
mod guard;
pub(crate) mod http;
pub(crate) mod metrics_door;
mod upgrade;
pub(crate) mod ws_read;
pub(crate) mod ws_write;
