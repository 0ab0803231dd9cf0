//! `BlossomDurableObject`: the index of blobs. What it does is in [`BlossomObject`]; here is what it does it with.

use std::time::Duration;

use js_sys::futures::JsFuture;
use relay_blossom::{Index, Sha256};
use relay_engine::sql::StoreError;
use wasm_bindgen::JsCast;
use worker::{Bucket, Delay, DurableObject, Env, Request, Response, Result, State, durable_object};

use super::blossom::keep_expiry;
use super::js::{self, Storage};
use super::sql::DurableSql;
use super::variables;
use crate::blossom::{
    BlossomHost, BlossomObject, COMMAND_PATH, EVENTS_PATH, KeyPage, USE_PATH, decode_command, decode_events,
    encode_outcome,
};
use crate::used_auth_events::{SignedBy, encode_taken};

/// The bucket of blobs.
pub(super) const BLOBS: &str = "BLOBS";

/// The index.
#[durable_object]
pub struct BlossomDurableObject {
    object: BlossomObject<Platform>,
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

    fn bucket(&self) -> std::result::Result<Bucket, String> {
        self.env.bucket(BLOBS).map_err(|error| error.to_string())
    }
}

impl BlossomHost for Platform {
    type Conn = DurableSql;
    type Index = Index<DurableSql>;

    fn now(&self) -> u64 {
        js_sys::Date::now() as u64 / 1_000
    }

    fn conn(&self) -> std::result::Result<DurableSql, StoreError> {
        self.storage().map(DurableSql::new)
    }

    fn open_index(&self) -> std::result::Result<Index<DurableSql>, StoreError> {
        Index::open(self.conn()?)
    }

    fn has_retention(&self) -> bool {
        variables::settings(&self.env).is_ok_and(|settings| !settings.blossom.retention.is_empty())
    }

    async fn sleep(&self, time: Duration) {
        Delay::from(time).await;
    }

    async fn alarm(&self) -> Option<u64> {
        let set = self.storage().ok()?.get_alarm().ok()?;
        let set = JsFuture::from(set).await.ok()?.as_f64()?;
        Some(set as u64 / 1_000)
    }

    fn set_alarm(&self, at: u64) -> bool {
        matches!(self.storage().map(|storage| storage.set_alarm(at as f64 * 1_000.0)), Ok(Ok(_)))
    }

    async fn remove(&self, keys: &[String]) -> std::result::Result<(), String> {
        let removed = self.bucket()?.delete_multiple(keys.iter().map(String::as_str).collect()).await;
        removed.map_err(|error| error.to_string())
    }

    async fn keys(&self, after: Option<&str>, max: u32) -> std::result::Result<KeyPage, String> {
        let bucket = self.bucket()?;
        let mut page = bucket.list().limit(max);
        if let Some(after) = after {
            page = page.start_after(after);
        }
        let page = page.execute().await.map_err(|error| error.to_string())?;
        let objects = page.objects();
        let keys = objects.iter().map(|object| (object.key(), object.uploaded().as_millis() / 1_000));
        Ok(KeyPage { keys: keys.collect(), has_more: page.truncated() })
    }

    async fn keep_expiry(&self, sha256: &Sha256, expires_at: Option<u64>) -> std::result::Result<(), String> {
        keep_expiry(&self.env, sha256, expires_at).await
    }

    fn error(&self, message: &str) {
        worker::console_error!("{message}");
    }

    fn log(&self, message: &str) {
        worker::console_log!("{message}");
    }
}

impl BlossomDurableObject {
    /// Marks the event that has signed a request as used.
    fn take_used(&self, body: &[u8]) -> std::result::Result<&'static [u8], String> {
        let host = self.object.host();
        let signed: SignedBy = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let conn = host.conn().map_err(|error| error.to_string())?;
        signed.take(&conn, host.now()).map(|taken| encode_taken(&taken)).map_err(|error| error.to_string())
    }
}

impl DurableObject for BlossomDurableObject {
    fn new(state: State, env: Env) -> Self {
        BlossomDurableObject { object: BlossomObject::new(Platform { state, env }) }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let path = request.path();
        let body = request.bytes().await?;
        match path.as_str() {
            COMMAND_PATH => {
                let outcome = match decode_command(&body) {
                    Ok(command) => self.object.run(command).await,
                    Err(message) => Err(StoreError::Failed(message)),
                };
                Response::from_bytes(encode_outcome(outcome))
            }
            EVENTS_PATH => {
                let url = match variables::settings(&self.object.host().env) {
                    Ok(settings) => settings.url,
                    Err(message) => return Response::error(message, 503),
                };
                let commands = match decode_events(&body, url.as_deref()) {
                    Ok(commands) => commands,
                    Err(message) => return Response::error(message, 400),
                };
                for command in commands {
                    if let Err(error) = self.object.run(command).await {
                        return Response::error(error.to_string(), 503);
                    }
                }
                Response::ok("")
            }
            USE_PATH => match self.take_used(&body) {
                Ok(taken) => Response::from_bytes(taken.to_vec()),
                Err(message) => Response::error(message, 503),
            },
            _ => Response::error("not found\n", 404),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        self.object.alarm().await;
        Response::ok("")
    }
}
