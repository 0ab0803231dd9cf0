//! `MarketDurableObject`, and how the Worker asks it. What the object does is in [`MarketObject`].

use std::sync::{LazyLock, Mutex, PoisonError};

use js_sys::futures::JsFuture;
use relay_engine::sql::StoreError;
use relay_market::http::Answers;
use relay_site::MarketRoute;
use wasm_bindgen::{JsCast, JsValue};
use worker::{
    Date, DurableObject, Env, Headers, Method, Request, RequestInit, Response, Result, State, durable_object,
};

use super::entry::{address, response};
use super::js::{self, Storage};
use super::shards::stub_of;
use super::sql::DurableSql;
use super::variables;
use crate::market::{
    ASK_PATH, Asked, EVENTS_PATH, KEPT_BYTES_MAX, KEPT_MILLIS, MARKET, MarketHost, MarketObject, OBJECT,
};
use crate::settings::Settings;

/// Answers that the isolate gives again, so that a page that many ask for costs few requests to the object.
static ANSWERS: LazyLock<Mutex<Answers<Kept>>> = LazyLock::new(|| Mutex::new(Answers::new(KEPT_BYTES_MAX)));

/// An answer of the object.
#[derive(Clone)]
struct Kept {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Kept {
    fn response(self) -> Result<Response> {
        let headers = Headers::new();
        for (name, value) in &self.headers {
            headers.append(name, value)?;
        }
        Ok(Response::from_bytes(self.body)?.with_status(self.status).with_headers(headers))
    }
}

/// Has the object answer a request.
pub(super) async fn respond(
    request: &Request,
    env: &Env,
    settings: &Settings,
    route: MarketRoute,
    npub: Option<&str>,
) -> Result<Response> {
    let url = request.url()?;
    let relay_url = settings.url.clone().unwrap_or_else(|| address(request));
    let asked = Asked::new(route, npub, url.query().unwrap_or_default(), &settings.info.name, &relay_url);
    let asked = asked.encode();
    let now = Date::now().as_millis();
    let kept = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner).get(&asked, now);
    if let Some(kept) = kept {
        return kept.response();
    }
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(JsValue::from_str(&asked)));
    let stub = stub_of(env, &settings.placement, MARKET, OBJECT)?;
    let post = Request::new_with_init(&format!("https://{OBJECT}{ASK_PATH}"), &init)?;
    let mut answered = stub.fetch_with_request(post).await?;
    let kept = Kept {
        status: answered.status_code(),
        headers: answered.headers().entries().collect(),
        body: answered.bytes().await?,
    };
    if kept.status < 500 {
        let (bytes, until) = (kept.body.len(), now + KEPT_MILLIS);
        let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(asked, kept.clone(), bytes, until, now);
    }
    kept.response()
}

/// The market.
#[durable_object]
pub struct MarketDurableObject {
    object: MarketObject<Platform>,
}

/// What the runtime has given the object.
struct Platform {
    state: State,
    env: Env,
}

impl Platform {
    fn storage(&self) -> std::result::Result<Storage, StoreError> {
        let storage = self.state.as_raw().storage();
        storage.map(JsCast::unchecked_into).map_err(|error| StoreError::Failed(js::error_message(&error)))
    }
}

impl MarketHost for Platform {
    type Conn = DurableSql;

    fn now(&self) -> u64 {
        Date::now().as_millis() / 1_000
    }

    fn conn(&self) -> std::result::Result<DurableSql, StoreError> {
        self.storage().map(DurableSql::new)
    }

    async fn alarm(&self) -> Option<u64> {
        let set = self.storage().ok()?.get_alarm().ok()?;
        let set = JsFuture::from(set).await.ok()?.as_f64()?;
        Some(set as u64 / 1_000)
    }

    fn set_alarm(&self, at: u64) -> bool {
        matches!(self.storage().map(|storage| storage.set_alarm(at as f64 * 1_000.0)), Ok(Ok(_)))
    }

    fn error(&self, message: &str) {
        worker::console_error!("{message}");
    }
}

impl DurableObject for MarketDurableObject {
    fn new(state: State, env: Env) -> Self {
        MarketDurableObject { object: MarketObject::new(Platform { state, env }) }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let path = request.path();
        let body = request.bytes().await?;
        match path.as_str() {
            EVENTS_PATH => {
                let url = match variables::settings(&self.object.host().env) {
                    Ok(settings) => settings.url,
                    Err(message) => return Response::error(message, 503),
                };
                match self.object.apply(&body, url.as_deref()).await {
                    Ok(()) => Response::ok(""),
                    Err(error) => Response::error(error.to_string(), 503),
                }
            }
            ASK_PATH => {
                let asked = Asked::decode(&body)?;
                response(self.object.answer(&asked).map_err(|error| error.to_string())?)
            }
            _ => Response::error("not found\n", 404),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        self.object.alarm().await.map_err(|error| error.to_string())?;
        Response::ok("")
    }
}
