//! Members of the relay (NIP-43) whom an agent admits: the job asks for it, and the event that says so is stored and published with the
//! result.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, KIND_ADD_USER, Now, PubKey};

use super::Agent;
use super::jobs::{Active, Stage};
use crate::executor;
use crate::identity::{Draft, Sign};
use crate::job::JobRequest;
use crate::manifest::{ExecutorConfig, Manifest};
use crate::store;

/// Why a membership is refused, for the customer.
const IS_MEMBER: &str = "this key is a member already";

fn admits(manifest: &Manifest, kind: u16) -> bool {
    let mut handlers = manifest.handlers.iter().filter(|handler| handler.kind == kind);
    handlers.any(|handler| matches!(handler.executor, ExecutorConfig::Membership(_)))
}

impl<C: SqlConn> Agent<C> {
    /// Whether a request for a membership can be fulfilled, before anything is asked for it: the message if not. Other requests pass.
    pub(super) fn admit_membership(
        &self,
        manifest: &Manifest,
        request: &JobRequest,
    ) -> Result<Result<(), String>, StoreError> {
        if !admits(manifest, request.kind) {
            return Ok(Ok(()));
        }
        match executor::membership_wanted(request.inputs.iter().map(|input| input.data.as_str())) {
            Ok(key) if store::is_member(&self.conn, &self.batch, &key)? => Ok(Err(IS_MEMBER.to_owned())),
            wanted => Ok(wanted.map(drop)),
        }
    }

    /// Makes the key that a finished job is about a member, in the transaction that makes its result the outbox's.
    ///
    /// # Errors
    /// With a message for the customer.
    pub(super) fn add_member(&mut self, now: Now, active: &Active) -> Result<(), String> {
        let Stage::Running(attempt) = &active.stage else { return Ok(()) };
        if !admits(&attempt.manifest, active.request.kind) {
            return Ok(());
        }
        let key = executor::membership_wanted(active.request.inputs.iter().map(|input| input.data.as_str()))?;
        match store::is_member(&self.conn, &self.batch, &key) {
            Ok(false) => {}
            // Two requests for one key have been paid.
            Ok(true) => return Err(IS_MEMBER.to_owned()),
            Err(_) => return Err("the database cannot be read; try again later".to_owned()),
        }
        self.sign_member(now, active.id(), &key)
    }

    fn sign_member(&mut self, now: Now, job: EventId, key: &PubKey) -> Result<(), String> {
        let author = self.event_signer().ok_or("this agent has no key")?;
        let tags = vec![vec!["-".to_owned()], vec!["p".to_owned(), key.to_string()]];
        let draft = Draft { created_at: now.seconds(), kind: KIND_ADD_USER, tags, content: String::new() };
        let event = author.sign(&draft);
        store::put_member(&mut self.batch, key, &job, now.millis());
        self.outbox.stage(now, &[], event);
        Ok(())
    }
}
