//! Access to the objects of shards, from the Worker's entry and from one another.

use relay_engine::types::Event;
use wasm_bindgen::JsValue;
use worker::{Env, Error, Method, ObjectNamespace, Request, RequestInit, Result, State, Stub};

use crate::settings::Placement;
use crate::shard::Shard;

/// The binding of `RelayDurableObject`.
const RELAY: &str = "RELAY";

/// The path at which an object receives the ephemeral events of other shards: a POST with their canonical JSON, one a
/// line. Clients cannot reach it: the Worker passes only WebSocket upgrades on to objects.
pub(super) const LIVE_PATH: &str = "/live";

fn namespace(env: &Env, binding: &str, placement: &Placement) -> Result<ObjectNamespace> {
    let namespace = env.durable_object(binding)?;
    match &placement.jurisdiction {
        Some(jurisdiction) => super::js::in_jurisdiction(&namespace, jurisdiction),
        None => Ok(namespace),
    }
}

/// A stub of the object of a shard.
pub(super) fn stub(env: &Env, placement: &Placement, shard: Shard) -> Result<Stub> {
    stub_of(env, placement, RELAY, &shard.to_string())
}

/// A stub of the object of this name in a binding, placed as the settings say.
pub(super) fn stub_of(env: &Env, placement: &Placement, binding: &str, name: &str) -> Result<Stub> {
    let namespace = namespace(env, binding, placement)?;
    match &placement.location_hint {
        Some(hint) => namespace.get_by_name_with_location_hint(name, hint),
        None => namespace.get_by_name(name),
    }
}

/// All shards except an object's own.
pub(super) struct OtherShards {
    env: Env,
    placement: Placement,
    others: Vec<Shard>,
}

impl OtherShards {
    /// Finds them. With one shard, nothing is asked of the runtime.
    pub(super) fn new(env: &Env, placement: &Placement, own: &State) -> Result<Self> {
        let mut others = Vec::new();
        if placement.shards.count() > 1 {
            let (namespace, own) = (namespace(env, RELAY, placement)?, own.id());
            for shard in placement.shards.all() {
                if namespace.id_from_name(&shard.to_string())? != own {
                    others.push(shard);
                }
            }
        }
        Ok(OtherShards { env: env.clone(), placement: placement.clone(), others })
    }

    /// Forwards ephemeral events to each of them, in one request each. Does not wait; failures are logged.
    pub(super) fn forward(&self, events: &[Event]) {
        if self.others.is_empty() {
            return;
        }
        let lines: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.json())).collect();
        let body = lines.join("\n");
        for shard in &self.others {
            let request = self.request(*shard, &body);
            let shard = *shard;
            worker::wasm_bindgen_futures::spawn_local(async move {
                let response = match request {
                    Ok((stub, request)) => stub.fetch_with_request(request).await,
                    Err(error) => Err(error),
                };
                let failure = match response {
                    Ok(response) if response.status_code() == 200 => return,
                    Ok(response) => Error::RustError(format!("status {}", response.status_code())),
                    Err(error) => error,
                };
                worker::console_error!("ephemeral events did not reach {shard}: {failure}");
            });
        }
    }

    fn request(&self, shard: Shard, body: &str) -> Result<(Stub, Request)> {
        // A stub breaks when its object fails, so each request has its own.
        let stub = stub(&self.env, &self.placement, shard)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(JsValue::from_str(body)));
        Ok((stub, Request::new_with_init(&format!("http://{shard}{LIVE_PATH}"), &init)?))
    }
}
