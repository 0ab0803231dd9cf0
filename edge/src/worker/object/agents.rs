//! What the relay's object and the objects of agents ask of each other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use relay_agent::api::{self, no_agent};
use relay_agent::identity::npub;
use relay_agent::machine::{Published, RemovalRecord};
use relay_engine::types::PubKey;
use relay_site::HttpResponse;
use worker::{Delay, Env, Error, Method, Request, RequestInit, Response, Result};

use super::{Runtime, Shared, now};
use crate::agent::api_request::{
    ADMIT_PATH, API_PATH, ApiRequest, CAPACITY_PATH, ENTRY_PATH, REMOVAL_PATH, REMOVED_PATH,
    STORE_REMOVAL_PATH, decode_entry,
};
use crate::agent::message::{
    DELIVER_PATH, Delivery, PUBLISH_PATH, QUERY_PATH, Reply, decode_filter, decode_publish, encode_events,
    encode_outcomes,
};
use crate::object::{CallId, NextTick, Object, PublicationId};
use crate::settings::Placement;
use crate::worker::agent::AGENT;
use crate::worker::entry::response;
use crate::worker::shards::stub_of;
use crate::worker::sql::DurableSql;

/// An agent that has not answered by then has failed, and is called again.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A delivery to an agent. Its events are shared with the router until it is sent.
type Call = (CallId, PubKey, Delivery);

/// Calls to agents that have not been sent yet, and requests of agents that wait for their outcomes.
#[derive(Clone, Default)]
pub(super) struct AgentCalls {
    calls: Rc<RefCell<Vec<Call>>>,
    waiting: Rc<RefCell<HashMap<PublicationId, oneshot::Sender<Vec<Published>>>>>,
    /// Where the objects of agents are.
    placement: Rc<RefCell<Placement>>,
}

impl AgentCalls {
    /// The settings have been read.
    pub(super) fn set_placement(&self, placement: &Placement) {
        if let Ok(mut own) = self.placement.try_borrow_mut() {
            own.clone_from(placement);
        }
    }

    fn placement(&self) -> Placement {
        self.placement.try_borrow().map(|placement| placement.clone()).unwrap_or_default()
    }

    pub(super) fn push(&self, call: CallId, agent: &PubKey, delivery: Delivery) {
        if let Ok(mut calls) = self.calls.try_borrow_mut() {
            calls.push((call, *agent, delivery));
        }
    }

    /// Answers the requests whose events have their outcomes.
    pub(super) fn answer(&self, object: &mut Object<DurableSql, Runtime>) {
        while let Some((id, outcomes)) = object.poll_agent_published() {
            let sender = self.waiting.try_borrow_mut().ok().and_then(|mut waiting| waiting.remove(&id));
            if let Some(sender) = sender {
                let _ = sender.send(outcomes);
            }
        }
    }
}

/// Sends a delivery to the object of an agent.
async fn call(
    env: &Env,
    placement: &Placement,
    agent: &PubKey,
    delivery: Delivery,
) -> std::result::Result<Reply, String> {
    let message = |error: Error| error.to_string();
    let stub = stub_of(env, placement, AGENT, &npub(agent)).map_err(message)?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(Uint8Array::from(&*delivery.encode()).into()));
    drop(delivery);
    let request = Request::new_with_init(&format!("https://agent{DELIVER_PATH}"), &init).map_err(message)?;
    let answer = async {
        let mut response = stub.fetch_with_request(request).await?;
        let body = response.bytes().await?;
        Ok::<_, Error>((response.status_code(), body))
    };
    match select(Box::pin(answer), Delay::from(CALL_TIMEOUT)).await {
        Either::Left((answer, _)) => match answer.map_err(message)? {
            (200, body) => Reply::decode(&body).map_err(|error| error.to_string()),
            (status, _) => Err(format!("status {status}")),
        },
        Either::Right(_) => Err(format!("no answer in {} seconds", CALL_TIMEOUT.as_secs())),
    }
}

/// A request to the API, and the agent that it is about.
fn ask_about(body: &[u8]) -> std::result::Result<(ApiRequest, PubKey), String> {
    let (ask, agent) = ApiRequest::decode(body).map_err(|error| error.to_string())?;
    Ok((ask, PubKey::from_hex(agent).map_err(|error| error.to_string())?))
}

impl Shared {
    /// Sends the calls to agents, and reports the answers to the object.
    pub(super) fn call_agents(self: &Rc<Self>) {
        let Ok(calls) = self.agents.calls.try_borrow_mut().map(|mut calls| std::mem::take(&mut *calls))
        else {
            return;
        };
        for (id, agent, delivery) in calls {
            let shared = Rc::clone(self);
            worker::wasm_bindgen_futures::spawn_local(async move {
                let reply = call(&shared.env, &shared.agents.placement(), &agent, delivery).await;
                if let Err(message) = &reply {
                    worker::console_error!("agent {}: {message}", npub(&agent));
                }
                let reported = shared.with(|object| ((), object.agent_answered(now(), id, reply.ok())));
                if let Err(message) = reported {
                    worker::console_error!("agent {}: {message}", npub(&agent));
                }
            });
        }
    }

    /// Answers requests of agents' objects and of the Worker.
    pub(super) async fn answer_agents(self: &Rc<Self>, mut request: Request) -> Result<Response> {
        let body = request.bytes().await?;
        match (request.method(), request.path().as_str()) {
            (Method::Post, PUBLISH_PATH) => match decode_publish(&body) {
                Ok((counted, events)) => {
                    let (sender, outcomes) = oneshot::channel();
                    let waits = self.with(|object| {
                        let (id, next) = object.publish_for_agent(now(), &events, counted.as_ref());
                        if let (Some(id), Ok(mut waiting)) = (id, self.agents.waiting.try_borrow_mut()) {
                            waiting.insert(id, sender);
                        }
                        ((), next)
                    });
                    waits.map_err(Error::RustError)?;
                    match outcomes.await {
                        Ok(outcomes) => Response::from_bytes(encode_outcomes(&outcomes)),
                        Err(_) => Response::error("agents are disabled\n", 503),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, QUERY_PATH) => match decode_filter(&body) {
                Ok(filter) => {
                    let found = self.with(|object| (object.find_for_agent(now(), filter), NextTick::None));
                    match found.and_then(|found| found) {
                        Ok(events) => Response::from_bytes(encode_events(events.iter())),
                        Err(message) => Response::error(format!("{message}\n"), 503),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, API_PATH) => match ApiRequest::decode(&body) {
                Ok((ask, _)) => {
                    let answer = self.with(|object| {
                        let answer = object.router().map(|router| api::directory(router, &ask.request(b"")));
                        (answer, NextTick::None)
                    });
                    let answer = answer.map_err(Error::RustError)?;
                    response(answer.unwrap_or_else(|| HttpResponse::error(404, "agents are disabled")))
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, ADMIT_PATH) => match ask_about(&body) {
                Ok((ask, agent)) => {
                    let admitted = self.with(|object| {
                        (object.admit_agent_request(&agent, &ask.request(b"")), NextTick::None)
                    });
                    match admitted.map_err(Error::RustError)? {
                        Ok(_) => Response::empty(),
                        Err(answer) => response(answer),
                    }
                }
                Err(message) => Response::error(format!("{message}\n"), 400),
            },
            (Method::Post, REMOVED_PATH) => match ask_about(&body) {
                Ok((ask, agent)) => {
                    let deleted = self.with(|object| (object.removal_record_of(&agent), NextTick::None));
                    match deleted.and_then(|deleted| deleted) {
                        Ok(Some(deleted)) => response(api::answer_for_deleted(&deleted, &ask.request(b""))),
                        Ok(None) => response(no_agent()),
                        Err(message) => Response::error(format!("{message}\n"), 503),
                    }
                }
                Err(message) => Response::error(format!("{message}\n"), 400),
            },
            (Method::Post, REMOVAL_PATH) => match PubKey::from_hex(&body) {
                Ok(agent) => {
                    let deleted = self.with(|object| (object.removal_record_of(&agent), NextTick::None));
                    match deleted.and_then(|deleted| deleted) {
                        Ok(deleted) => Response::from_bytes(
                            deleted.as_ref().map(RemovalRecord::to_json).unwrap_or_default(),
                        ),
                        Err(message) => Response::error(format!("{message}\n"), 503),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, STORE_REMOVAL_PATH) => match RemovalRecord::from_json(&body) {
                Ok(deleted) => {
                    let kept = self.with(|object| object.remove_agent(now(), &deleted));
                    match kept.and_then(|kept| kept) {
                        Ok(is_kept) => Ok(Response::empty()?.with_status(if is_kept { 200 } else { 409 })),
                        Err(message) => Response::error(format!("{message}\n"), 503),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, ENTRY_PATH) => match decode_entry(&body) {
                Ok(entry) => {
                    let put = self.with(|object| object.put_agent(now(), entry));
                    match put.and_then(|put| put) {
                        Ok(()) => Response::empty(),
                        Err(message) => Response::error(format!("{message}\n"), 503),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            (Method::Post, CAPACITY_PATH) => match PubKey::from_hex(&body) {
                Ok(agent) => {
                    let has_room = self.with(|object| (object.has_room_for_agent(&agent), NextTick::None));
                    let has_room = has_room.map_err(Error::RustError)?;
                    Ok(Response::empty()?.with_status(if has_room { 200 } else { 409 }))
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            _ => Response::error("not found\n", 404),
        }
    }
}
