//! Blobs of this process: agents store results and read inputs, without HTTP and without a token.

use hyper::body::Bytes;
use relay_agent::executor::{HttpError, HttpEvent};
use relay_blossom::exchange::{InternalUpload, InternalUploadStep};
use relay_blossom::{Blob, Command, Outcome, Sha256};
use relay_engine::types::PubKey;

use super::store::Reading;
use super::{Blossom, RequestOrigin};

/// A blob that an agent reads.
pub(crate) struct InternalRead {
    blob: Blob,
    reading: Reading,
    is_begun: bool,
}

impl Blossom {
    /// Stores a blob. Its URL is below `base_url`.
    ///
    /// # Errors
    /// Why it is not stored, for the log.
    pub(crate) async fn store_for_agent(
        &self,
        base_url: &str,
        owner: &PubKey,
        bytes: Bytes,
        mime: &str,
    ) -> Result<String, String> {
        let base_url = base_url.to_owned();
        let seen = RequestOrigin { url: Ok(base_url.clone()), base_url, is_local: true, client: None };
        let mut next = InternalUpload::begin(&self.context(&seen, &self.admins()), owner, bytes, mime);
        loop {
            match next {
                InternalUploadStep::Done(outcome) => return outcome,
                InternalUploadStep::Go(own, step) => {
                    let input = self.carry_out(*step, &seen, &mut None).await;
                    next = own.resume(&self.context(&seen, &self.admins()), input);
                }
            }
        }
    }

    /// Opens a blob of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The events of a failed call, in this order.
    pub(crate) async fn read_for_agent(
        &self,
        name: &str,
        bytes_max: usize,
    ) -> Result<InternalRead, Vec<HttpEvent>> {
        let missing = || vec![HttpEvent::Head(404, Vec::new()), HttpEvent::End];
        let sha256: Sha256 = name.parse().map_err(|_| missing())?;
        let blob = match self.index.run(Command::Get(sha256)).await {
            Ok(Outcome::Blob(blob)) => blob,
            Ok(_) => return Err(missing()),
            Err(error) => return Err(vec![failed(&error.to_string())]),
        };
        if blob.size > bytes_max as u64 {
            return Err(vec![HttpEvent::Failed(HttpError::TooLarge)]);
        }
        match self.bodies.read(name, 0..blob.size).await {
            Ok(reading) => Ok(InternalRead { blob, reading, is_begun: false }),
            Err(failure) => Err(vec![failed(&format!("{failure:?}"))]),
        }
    }
}

impl InternalRead {
    /// The next event, as of a call over HTTP. The last is [`HttpEvent::End`] or [`HttpEvent::Failed`].
    pub(crate) async fn next(&mut self) -> HttpEvent {
        if !std::mem::replace(&mut self.is_begun, true) {
            return HttpEvent::Head(200, vec![("content-type".to_owned(), self.blob.mime.clone())]);
        }
        match self.reading.next().await {
            Some(Ok(bytes)) => HttpEvent::Chunk(bytes),
            Some(Err(error)) => failed(&error.to_string()),
            None => HttpEvent::End,
        }
    }
}

fn failed(error: &str) -> HttpEvent {
    tracing::error!(error, "an agent cannot read a blob");
    HttpEvent::Failed(HttpError::Connection("the blob cannot be read".to_owned()))
}
