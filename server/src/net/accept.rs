//! One listener for all shards: each socket goes to the shard that has the fewest.
//!
//! Not `SO_REUSEPORT`: a second process on the same port would silently take a share of the connections.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};

use crate::host::{Host, Inbound};
use crate::log_throttle::LogThrottle;

/// What a client is told when no shard has room.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 30\r\nConnection: close\r\n\r\n";

/// Accepts for ever.
pub(crate) async fn run(host: &Host, listener: TcpListener) {
    let (no_files, no_room) = (LogThrottle::default(), LogThrottle::default());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Err(error) = hand_over(host, stream, address, &no_room) {
                    tracing::debug!(%error, "a connection was lost right away");
                }
            }
            Err(error) => {
                // Most likely no file descriptors are left; some will be when connections close.
                if let Some(times) = no_files.happened(Instant::now()) {
                    tracing::warn!(%error, times, "can't accept connections");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn hand_over(host: &Host, stream: TcpStream, address: SocketAddr, no_room: &LogThrottle) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(inbox) = host.seat() else {
        host.sockets_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = no_room.happened(Instant::now()) {
            tracing::warn!(%address, times, "no room for another connection");
        }
        let _ = stream.try_write(NO_ROOM);
        return Ok(());
    };
    match stream.into_std() {
        Ok(stream) => inbox.push(Inbound::Socket(stream, address)),
        Err(error) => {
            inbox.sockets.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
    }
    Ok(())
}
