//! One listener for all shards: each socket goes to the shard that has the fewest.
//!
//! Not `SO_REUSEPORT`: a second process on the same port would silently take a share of the connections.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relay_site::HttpResponse;
use tokio::net::TcpListener;

use super::addresses::TooMany;
use super::descriptors::{SpareDescriptor, is_of_one_connection, ran_out};
use super::response::raw_response;
use crate::host::{Inbound, ServerState, Socket};
use crate::log_throttle::LogThrottle;

/// How long to wait before the next try when nothing can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(crate) async fn run(host: &ServerState, listener: TcpListener) {
    let acceptor = Acceptor::new();
    let mut spare = SpareDescriptor::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.into_std().and_then(|stream| acceptor.admit(host, stream, peer)) {
                    tracing::debug!(%error, "a connection was lost right away");
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was lost before it was accepted");
            }
            Err(error) => {
                if let Some(times) = acceptor.no_files.record(Instant::now()) {
                    tracing::warn!(%error, times, "can't accept connections");
                }
                // A waiting client gets the 503. Where even that fails, descriptors may be free a little later.
                let is_told =
                    ran_out(&error) && spare.release() && acceptor.refuse_waiting(host, &listener).await;
                spare.reacquire();
                if !is_told {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Decides who is accepted; the rest get one of two answers, rendered once.
struct Acceptor {
    all_taken: Vec<u8>,
    too_many: Vec<u8>,
    no_files: LogThrottle,
    full: LogThrottle,
    full_address: LogThrottle,
}

impl Acceptor {
    fn new() -> Self {
        let all_taken = HttpResponse::too_many_connections();
        Acceptor {
            all_taken: raw_response(&all_taken),
            too_many: raw_response(&TooMany::answer()),
            no_files: LogThrottle::default(),
            full: LogThrottle::default(),
            full_address: LogThrottle::default(),
        }
    }

    /// Refuses one client that waits to be accepted, with the descriptor that has become free. False: that could not be
    /// done either.
    async fn refuse_waiting(&self, host: &ServerState, listener: &TcpListener) -> bool {
        // The waiting client may be gone: then there is no client to answer, and nothing to wait for.
        let accepted = tokio::time::timeout(PAUSE, listener.accept()).await;
        let Ok(Ok((stream, _))) = accepted else { return false };
        host.sockets_refused.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = stream.into_std().and_then(|stream| reject(stream, &self.all_taken)) {
            tracing::debug!(%error, "could not send the refusal to a client");
        }
        true
    }

    /// Hands a socket over to a shard, or refuses it.
    fn admit(&self, host: &ServerState, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let permit = match host.addresses.admit_socket(peer.ip()) {
            Ok(permit) => permit,
            Err(TooMany(address)) => {
                if let Some(times) = self.full_address.record(Instant::now()) {
                    tracing::warn!(
                        %address,
                        times,
                        "too many connections from one address; if it is your proxy, name it in network.trusted_proxies"
                    );
                }
                return reject(stream, &self.too_many);
            }
        };
        let Some(inbox) = host.take_slot() else {
            host.sockets_refused.fetch_add(1, Ordering::Relaxed);
            if let Some(times) = self.full.record(Instant::now()) {
                tracing::warn!(address = %peer, times, "too many connections");
            }
            return reject(stream, &self.all_taken);
        };
        inbox.push(Inbound::Socket(Socket { stream, peer, permit }));
        Ok(())
    }
}

/// Sends a client the reason of its refusal, as much as its socket accepts without blocking, and closes.
fn reject(mut stream: TcpStream, response: &[u8]) -> io::Result<()> {
    // An empty send buffer has space for this little response.
    stream.write_all(response)?;
    stream.shutdown(Shutdown::Write)?;
    // A socket that closes with unread input is reset, and the response may be lost: what has come is read first. No
    // more input is waited for.
    let _ = stream.read(&mut [0; 4096]);
    Ok(())
}
