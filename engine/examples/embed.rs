//! A relay inside another program: `cargo run -p relay-engine --example embed`,
//! then point a Nostr client at ws://127.0.0.1:7778.
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind::WouldBlock;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use relay_engine::relay::{ClientInfo, Config, ConnId, Output, Relay};
use relay_engine::store::{MemoryBackend, TermClasses};
use relay_engine::types::Now;
use relay_engine::verify::Libsecp256k1;
use tungstenite::{Error, Message, WebSocket};

fn main() -> std::io::Result<()> {
    serve(&TcpListener::bind("127.0.0.1:7778")?, || true)
}

/// Serves while `goes_on`.
pub(crate) fn serve(listener: &TcpListener, goes_on: impl Fn() -> bool) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let store = MemoryBackend::new(TermClasses { all: true, author_kind: true });
    // Challenges and hash keys come from the seed: a real program takes a random one.
    let mut relay = Relay::new(Arc::new(Config::default()), store, Arc::new(Libsecp256k1), [7; 32]);
    let mut sockets: BTreeMap<ConnId, WebSocket<TcpStream>> = BTreeMap::new();
    let (mut ready, mut gone) = (BTreeSet::new(), BTreeSet::new());
    while goes_on() {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Now::from_micros(since.as_micros() as u64);
        while let Ok((stream, _)) = listener.accept() {
            let Ok(mut socket) = tungstenite::accept(stream) else { continue };
            socket.get_mut().set_nonblocking(true)?;
            relay.connect(now, ClientInfo::default()).map(|conn| sockets.insert(conn, socket));
        }
        for (conn, socket) in &mut sockets {
            while relay.wants_input(*conn) {
                match socket.read() {
                    Ok(Message::Text(text)) => relay.handle_text(now, *conn, text.as_bytes()),
                    Ok(_) => {}
                    Err(Error::Io(error)) if error.kind() == WouldBlock => break,
                    Err(_) => drop(gone.insert(*conn)),
                }
                if gone.contains(conn) {
                    break;
                }
            }
        }
        relay.handle_timeout(now);
        relay.run(now, 100, &mut |_, output| match output {
            Output::Ready(conn) => drop(ready.insert(conn)),
            Output::Close(conn, _) => drop(gone.insert(conn)),
            _ => {}
        });
        ready.retain(|conn| sockets.get_mut(conn).is_some_and(|socket| write(&mut relay, *conn, socket)));
        for conn in std::mem::take(&mut gone) {
            relay.disconnect(conn);
            sockets.remove(&conn);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Writes a client's output as far as its socket takes it; what is left waits in the machine. True if some is.
fn write(relay: &mut Relay<MemoryBackend>, conn: ConnId, socket: &mut WebSocket<TcpStream>) -> bool {
    while socket.flush().is_ok() {
        let mut frames = Vec::new();
        relay.drain(conn, 1 << 16, &mut |frame| {
            let mut text = Vec::with_capacity(frame.len());
            frame.write_to(&mut text);
            frames.push(Message::text(String::from_utf8(text).expect("frames are UTF-8")));
        });
        if frames.is_empty() {
            return false;
        }
        frames.into_iter().for_each(|frame| drop(socket.write(frame)));
    }
    true
}
