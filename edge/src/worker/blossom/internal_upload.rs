//! Blobs of agents: results that they store and inputs that they read, without HTTP and without a token.

use bytes::Bytes;
use relay_agent::executor::{HttpError, HttpEvent};
use relay_agent::machine::BlobServer;
use relay_blossom::exchange::{Input, InternalUpload, InternalUploadStep, Step, StepError, base_url};
use relay_engine::types::PubKey;
use worker::{Data, Env, Error};

use super::bucket::BlobStore;
use super::{ask, context, verifier};
use crate::settings::Settings;
use crate::worker::blossom_object::BLOBS;

/// Where agents store large results. Without `url` nobody knows where blobs are.
pub(in super::super) fn server(settings: &Settings) -> Option<BlobServer> {
    let url = settings.url.as_deref().filter(|_| settings.blossom.enabled)?;
    Some(BlobServer { base_url: base_url(url), blob_bytes_max: settings.blossom.blob_bytes_max })
}

fn unavailable(error: &Error) -> String {
    worker::console_error!("a blob of an agent: {error}");
    "the store of blobs is not available".to_owned()
}

/// Stores a blob; its URL.
///
/// # Errors
/// Why it is not stored, in plain words.
pub(in super::super) async fn put_own(
    env: &Env,
    settings: &Settings,
    owner: &PubKey,
    bytes: Bytes,
    mime: &str,
) -> Result<String, String> {
    let url = settings.url.as_deref().ok_or("this relay's URL is not known")?;
    let base_url = base_url(url);
    let verifier = verifier(0).map_err(|error| unavailable(&error.into()))?;
    let context = || context(settings, url, &base_url, false, &*verifier);
    let bodies = BlobStore::new(env).map_err(|error| unavailable(&error))?;
    let mut next = InternalUpload::begin(&context(), owner, bytes, mime);
    loop {
        match next {
            InternalUploadStep::Done(outcome) => return outcome,
            InternalUploadStep::Go(own, step) => {
                let done = match *step {
                    Step::Ask(command) => ask(env, &settings.placement, &command).await.map(Input::Answered),
                    Step::Put { bytes, receive } => {
                        bodies.store_checked(Data::Bytes(bytes.to_vec()), &receive).await.map(Input::Received)
                    }
                    Step::Discard(key) => bodies.remove(&key).await.map(|()| Input::Done),
                    _ => Err(StepError::Unsupported),
                };
                let input = done.unwrap_or_else(Input::Failed);
                next = own.resume(&context(), input);
            }
        }
    }
}

/// Reads a blob of at most `bytes_max` bytes, as if it were called over HTTP.
pub(in super::super) async fn read_own(
    env: &Env,
    sha256: &str,
    bytes_max: usize,
    mut tell: impl FnMut(HttpEvent),
) {
    let events = match read(env, sha256, bytes_max).await {
        Ok(Some((mime, bytes))) => {
            let head = HttpEvent::Head(200, vec![("content-type".to_owned(), mime)]);
            vec![head, HttpEvent::Chunk(bytes), HttpEvent::End]
        }
        Ok(None) => vec![HttpEvent::Head(404, Vec::new()), HttpEvent::End],
        Err(error) => vec![HttpEvent::Failed(error)],
    };
    events.into_iter().for_each(&mut tell);
}

async fn read(env: &Env, sha256: &str, bytes_max: usize) -> Result<Option<(String, Bytes)>, HttpError> {
    let failed = |error: Error| HttpError::Connection(unavailable(&error));
    let found = env.bucket(BLOBS).map_err(failed)?.get(sha256).execute().await.map_err(failed)?;
    let Some(object) = found else { return Ok(None) };
    if object.size() > bytes_max as u64 {
        return Err(HttpError::TooLarge);
    }
    let mime = object.http_metadata().content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    let bytes = match object.body() {
        Some(body) => body.bytes().await.map_err(failed)?,
        None => Vec::new(),
    };
    Ok(Some((mime, bytes.into())))
}
