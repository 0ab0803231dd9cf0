//! Requests to an agent's object: deliveries of the relay's object, the API, and payment requests of Blossom.

use std::rc::Rc;

use relay_agent::api::{self, Follower, Reply, no_agent};
use relay_agent::machine::RemovalRecord;
use relay_engine::sql::StoreError;
use relay_engine::types::EventId;
use relay_site::nip98::{Nip98Error, SignerTrust};
use relay_site::payment::{WAIT_INTERVAL, WAIT_MAX};
use relay_site::{AgentRoute, HttpResponse, PaymentOutcome, PaymentRequest};
use worker::{Delay, Method, Request, Response, Result};

use super::super::entry::response;
use super::super::sql::DurableSql;
use super::{Shared, make_room, now};
use crate::agent::api_request::{API_PATH, ApiRequest, ENTRY_PATH, decode_deployment, encode_entry};
use crate::agent::message::{DELIVER_PATH, Delivery, PAYMENT_PATH};
use crate::used_auth_events;

impl Shared {
    pub(super) async fn answer(self: &Rc<Self>, mut request: Request) -> Result<Response> {
        let body = request.bytes().await?;
        match (request.method(), request.path().as_str()) {
            (Method::Post, DELIVER_PATH) => {
                match self.has_agent() {
                    Ok(true) => {}
                    Ok(false) => return Response::error("no agent is deployed in this object\n", 404),
                    Err(message) => return Response::error(format!("{message}\n"), 503),
                }
                let delivery = match Delivery::decode(&body) {
                    Ok(delivery) => delivery,
                    Err(error) => return Response::error(format!("{error}\n"), 400),
                };
                make_room();
                let delivered = self.with(|agent| agent.deliver(now(), delivery));
                match delivered.and_then(|delivered| delivered.map_err(|error| error.to_string())) {
                    Ok(reply) => Response::from_bytes(reply.encode()),
                    Err(message) => Response::error(format!("{message}\n"), 503),
                }
            }
            (Method::Post, API_PATH) => match ApiRequest::decode(&body) {
                Ok((ask, body)) => {
                    let answer = self.ask(&ask, body).await;
                    match Follower::of(&ask.request(body), now()) {
                        Some(follower) if answer.status == 200 => self.follow(&answer, follower),
                        _ => response(answer),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, PAYMENT_PATH) => match serde_json::from_slice(&body) {
                Ok(request) => match self.pay(&request).await {
                    Ok(outcome) => Response::from_json(&outcome),
                    Err(message) => Response::error(format!("{message}\n"), 503),
                },
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            _ => Response::error("not found\n", 404),
        }
    }

    /// Answers a payment request, and waits for the wallet.
    async fn pay(self: &Rc<Self>, request: &PaymentRequest) -> std::result::Result<PaymentOutcome, String> {
        if !self.has_agent()? {
            return Ok(PaymentOutcome::Unavailable("the agent that is paid is not deployed".to_owned()));
        }
        let until = now().plus_millis(u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX));
        loop {
            let reply =
                self.with(|agent| agent.with(now(), |agent| agent.handle_payment_request(now(), request)))?;
            if reply.is_final || now() >= until {
                return Ok(reply.outcome);
            }
            Delay::from(WAIT_INTERVAL).await;
        }
    }

    /// Answers a request to the API. The router knows what has changed before the client does.
    async fn ask(self: &Rc<Self>, ask: &ApiRequest, body: &[u8]) -> HttpResponse {
        let deployment = matches!(ask.route, AgentRoute::Deploy | AgentRoute::Update)
            .then(|| decode_deployment(body))
            .transpose();
        let deployment = match deployment {
            Ok(deployment) => deployment,
            Err(error) => return HttpResponse::error(400, &error.to_string()),
        };
        match self.has_agent() {
            Ok(false) if ask.route != AgentRoute::Deploy => {
                return no_agent();
            }
            Ok(_) => {}
            Err(message) => return unavailable(&message),
        }
        let deleted = match &deployment {
            Some(deployment) => self.removal_record_of(&deployment.pubkey).await,
            None => Ok(None),
        };
        let deleted = match deleted {
            Ok(deleted) => deleted,
            Err(message) => return unavailable(&message),
        };
        let is_new = match &deleted {
            Some(deleted) => self.recall(deleted, ask),
            None => Ok(Ok(())),
        };
        match is_new
            .and_then(|is_new| is_new.map_or_else(|rejection| Ok(Err(rejection)), |()| self.mark_used(ask)))
        {
            Ok(Ok(())) => {}
            Ok(Err(rejection)) => return rejection.into(),
            Err(message) => return unavailable(&message),
        }
        let reply = self.with(|agent| {
            let (now, request) = (now(), ask.request(body));
            agent.with(now, |agent| {
                deleted.map_or(Ok(()), |deleted| agent.restore(&deleted))?;
                Ok::<Reply, StoreError>(match &deployment {
                    Some(deployment) => api::deploy(agent, now, &request, deployment),
                    None => api::agent(agent, now, &request),
                })
            })
        });
        let reply = reply.and_then(|reply| reply.map_err(|error| error.to_string()));
        let Reply { answer, changed } = match reply {
            Ok(reply) => reply,
            Err(message) => return unavailable(&message),
        };
        if let Some(entry) = changed
            && let Err(message) = self.ask_relay(ENTRY_PATH, encode_entry(&entry)).await
        {
            return unavailable(&message);
        }
        answer
    }

    /// Remembers what was used before the object was emptied, unless this request is among it.
    fn recall(
        &self,
        deleted: &RemovalRecord,
        ask: &ApiRequest,
    ) -> std::result::Result<std::result::Result<(), Nip98Error>, String> {
        let is_same = |id: EventId| ask.signed.as_ref().is_some_and(|signed| signed.id == id.to_string());
        if deleted.used().any(|(_, id)| is_same(id)) {
            return Ok(Err(Nip98Error::Replayed));
        }
        let conn = DurableSql::new(self.storage()?);
        used_auth_events::remember(&conn, now().seconds(), deleted.used())
            .map(Ok)
            .map_err(|error| error.to_string())
    }

    /// Marks the event that has signed a request as used, if its author is permitted what it asks for.
    fn mark_used(
        self: &Rc<Self>,
        ask: &ApiRequest,
    ) -> std::result::Result<std::result::Result<(), Nip98Error>, String> {
        let Some(signed) = &ask.signed else { return Ok(Ok(())) };
        // Others are refused below, or do this with what is their own (a customer with its history), where a repetition does no
        // harm.
        let is_permitted = ask.route == AgentRoute::Deploy || {
            let entry = self.with(|agent| api::entry(agent.agent()))?;
            let admitted = api::admit(ask.route, ask.id.as_deref(), ask.caller, false, entry.as_ref());
            admitted == Ok(SignerTrust::Permitted)
        };
        if !is_permitted {
            return Ok(Ok(()));
        }
        let now = js_sys::Date::now() as u64 / 1_000;
        signed.take(&DurableSql::new(self.storage()?), now).map_err(|error| error.to_string())
    }
}

/// Storage or the other object has failed; the client may try again.
fn unavailable(message: &str) -> HttpResponse {
    worker::console_error!("a request to the agents' API: {message}");
    HttpResponse::error(503, "temporarily unavailable, try again")
}
