//! Connections to other relays as their client.

use worker::{AbortSignal, Error, Fetch, Headers, Request, RequestInit, RequestRedirect, Result, WebSocket};

/// A request for a WebSocket.
pub(super) fn upgrade(url: &str) -> Result<Request> {
    let headers = Headers::new();
    headers.set("upgrade", "websocket")?;
    let mut init = RequestInit::new();
    init.with_headers(headers).with_redirect(RequestRedirect::Manual);
    Request::new_with_init(url, &init)
}

/// Opens a WebSocket at an `http://` or `https://` URL; it has not been accepted yet.
pub(super) async fn connect(url: &str, signal: &AbortSignal) -> Result<WebSocket> {
    let response = Fetch::Request(upgrade(url)?).send_with_signal(signal).await?;
    let status = response.status_code();
    response
        .websocket()
        .ok_or_else(|| Error::RustError(format!("no WebSocket: it responds with status {status}")))
}
