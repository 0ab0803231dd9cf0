//! Removing a deleted agent: its object is emptied, and then costs nothing; the relay's object keeps its removal record.

use std::rc::Rc;

use js_sys::futures::JsFuture;
use relay_agent::machine::RemovalRecord;
use relay_engine::types::PubKey;

use super::super::js;
use super::super::sql::DurableSql;
use super::{Shared, now};
use crate::agent::api_request::{REMOVAL_PATH, STORE_REMOVAL_PATH};
use crate::used_auth_events;

impl Shared {
    /// Stores the removal record in the relay's object, and then deletes everything in this object, the alarm too.
    /// After an error, or if the object loses its memory before it is done, the agent's alarm repeats it.
    pub(super) async fn remove(&self, deleted: &RemovalRecord) {
        if let Err(message) = self.try_remove(deleted).await {
            worker::console_error!("a deleted agent could not be removed: {message}");
        }
    }

    async fn try_remove(&self, deleted: &RemovalRecord) -> Result<(), String> {
        // Whoever has read a signed request may send it again as long as it is accepted, also to an agent that is deployed again.
        let remembered = || {
            used_auth_events::remembered(&DurableSql::new(self.storage()?), now().seconds())
                .map_err(|error| error.to_string())
        };
        let used = remembered()?;
        self.ask_relay(STORE_REMOVAL_PATH, deleted.clone().with_used(used.iter().copied()).to_json()).await?;
        let message = |error| js::error_message(&error);
        let emptied = {
            let mut place =
                self.agent.try_borrow_mut().map_err(|_| "internal error: the agent is busy; try again")?;
            // It may have been deployed again meanwhile.
            if !place.as_ref().is_some_and(|agent| agent.is_removed_by(deleted)) {
                return Ok(());
            }
            // Another request has come meanwhile: the alarm has it tried again.
            if remembered()?.iter().any(|event| !used.contains(event)) {
                return Ok(());
            }
            let emptied = self.storage()?.delete_all().map_err(message)?;
            *place = None;
            emptied
        };
        JsFuture::from(emptied).await.map(drop).map_err(message)
    }

    /// The removal record that the relay's object keeps, if this object has no agent.
    ///
    /// # Errors
    /// If storage fails, or the relay's object.
    pub(super) async fn removal_record_of(
        self: &Rc<Self>,
        agent: &PubKey,
    ) -> Result<Option<RemovalRecord>, String> {
        // An object without an agent stays empty as long as nothing is deployed there.
        if self.has_agent()? && self.with(|agent| agent.agent().state().is_some())? {
            return Ok(None);
        }
        let kept = self.ask_relay(REMOVAL_PATH, agent.to_string().into_bytes()).await?;
        let kept = (!kept.is_empty()).then(|| RemovalRecord::from_json(&kept));
        kept.transpose().map_err(|error| error.to_string())
    }
}
