//! To whom an answer goes, and the tags that all answers have.

use relay_engine::types::{Event, EventId, Kind, PubKey};

use crate::cipher::Cipher;
use crate::job::JobRequest;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo<'a> {
    /// The id of the request.
    pub request: EventId,
    /// Its author.
    pub customer: PubKey,
    /// Its kind.
    pub kind: Kind,
    /// Its cipher, which is the answer's. `None`: it is public.
    pub cipher: Option<Cipher>,
    /// The relay where the request is found, if the host knows its URL.
    pub relay_url: Option<&'a str>,
}

impl<'a> ReplyTo<'a> {
    /// An answer to a job.
    pub fn job(request: &JobRequest, relay_url: Option<&'a str>) -> Self {
        let JobRequest { id, customer, kind, cipher, .. } = *request;
        ReplyTo { request: id, customer, kind, cipher, relay_url }
    }

    /// An answer to an event of which no job has been made.
    pub fn event(event: &Event, cipher: Option<Cipher>, relay_url: Option<&'a str>) -> Self {
        ReplyTo { request: event.id, customer: event.pubkey, kind: event.kind, cipher, relay_url }
    }

    /// `["e", request, relay]`.
    pub(super) fn e(&self) -> Vec<String> {
        let mut tag = vec!["e".to_owned(), self.request.to_string()];
        tag.extend(self.relay_url.map(str::to_owned));
        tag
    }

    /// `["p", customer]`.
    pub(super) fn p(&self) -> Vec<String> {
        tag(["p", &self.customer.to_string()])
    }
}

/// A tag.
pub(super) fn tag<const N: usize>(fields: [&str; N]) -> Vec<String> {
    fields.map(str::to_owned).into()
}
