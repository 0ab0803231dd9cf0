//! Sessions with scripted relays: without sockets ([`world`]), and over loopback ([`sockets`]).

mod comparing;
mod liars;
mod paging;
mod sockets;
mod world;
