//! Sessions with scripted relays: without sockets ([`world`]), and over loopback ([`sockets`]).

mod comparing;
mod liars;
mod paging;
pub(super) mod sockets;
mod world;
