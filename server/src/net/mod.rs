//! Sockets: HTTP on every connection, WebSocket where a client asks for it.

mod guard;
mod ws_read;
pub(crate) mod ws_write;
