//! Live connections without sockets ([`live`]), and with scripted relays on loopback ([`sockets`]).

mod live;
mod scripted;
mod sockets;
