//! Sessions with scripted relays, without sockets.

mod comparing;
mod liars;
mod paging;
mod world;
