//! Exchanges with remote signers (NIP-46) and wallets (NIP-47): over a socket to the relay's object if they listen on this relay, else to other relays. The
//! socket is closed when the agent has its answers.

use std::rc::Rc;

use relay_agent::exchange::{Answers, is_same_relay};
use relay_agent::machine::{EffectId, ExchangeEvent};
use relay_engine::types::Event;
use worker::{Error, WebSocket};

use super::super::{calls, shards, sockets};
use super::{Shared, now};

impl Shared {
    /// Asks on all of these relays at once, until the agent has what it wants.
    pub(super) async fn exchange(
        self: &Rc<Self>,
        id: EffectId,
        relays: &[String],
        answers: &Answers,
        requests: &[Event],
    ) {
        let Some(signal) = self.begin_call(id) else { return };
        let Ok(settings) = self.settings() else { return };
        let asked = relays.iter().map(|relay| {
            let signal = &signal;
            async move {
                let tell = |event| self.tell_exchange(id, ExchangeEvent::Event(event));
                let is_own = settings.url.as_ref().is_some_and(|own| is_same_relay(own, relay));
                let socket = match is_own {
                    true => self.own_socket().await,
                    false => {
                        calls::exchange_socket(&settings.agents.allow_private_hosts, relay, signal).await
                    }
                };
                let asked = match socket {
                    Ok(socket) => calls::ask(&socket, answers, requests, signal, tell).await,
                    Err(why) => Err(why),
                };
                format!("{relay}: {}", asked.err().unwrap_or_default())
            }
        });
        let why = futures_util::future::join_all(asked).await.pop().unwrap_or_default();
        self.tell_exchange(id, ExchangeEvent::Failed(why));
        self.end_call(id);
    }

    /// A client's socket to the relay's object.
    async fn own_socket(&self) -> std::result::Result<WebSocket, String> {
        let message = |error: Error| error.to_string();
        let placement = &self.settings()?.placement;
        let stub = shards::stub(&self.env, placement, placement.shards.for_connection()).map_err(message)?;
        let request = sockets::upgrade("https://relay/").map_err(message)?;
        let response = stub.fetch_with_request(request).await.map_err(message)?;
        let status = response.status_code();
        response.websocket().ok_or_else(|| format!("the relay's object responded with status {status}"))
    }

    /// Tells the agent what has come, unless it wants nothing more.
    fn tell_exchange(self: &Rc<Self>, id: EffectId, event: ExchangeEvent) {
        if self.calls.try_borrow().is_ok_and(|calls| calls.contains_key(&id)) {
            self.report(|agent| agent.exchange_event(now(), id, event));
        }
    }
}
