//! An agent that is gone leaves an empty object, for which nothing is paid; the relay's object keeps its tombstone.

use std::rc::Rc;

use js_sys::futures::JsFuture;
use relay_agent::machine::Tombstone;
use relay_engine::types::PubKey;

use super::super::js;
use super::super::sql::DurableSql;
use super::{Shared, now};
use crate::agent::api_request::{BURY_PATH, TOMBSTONE_PATH};
use crate::used;

impl Shared {
    /// Has the relay's object keep the tombstone, and then deletes everything here, the alarm too. After an error, or if the object
    /// loses its memory before it is done, the agent's alarm has it done once more.
    pub(super) async fn bury(&self, tombstone: &Tombstone) {
        if let Err(message) = self.try_bury(tombstone).await {
            worker::console_error!("a deleted agent is not removed: {message}");
        }
    }

    async fn try_bury(&self, tombstone: &Tombstone) -> Result<(), String> {
        // Whoever has read a signed request may send it again as long as it is accepted, also to an agent that is deployed again.
        let remembered = || {
            used::remembered(&DurableSql::new(self.storage()?), now().seconds())
                .map_err(|error| error.to_string())
        };
        let used = remembered()?;
        self.ask_relay(BURY_PATH, tombstone.clone().with_used(used.iter().copied()).to_json()).await?;
        let message = |error| js::error_message(&error);
        let emptied = {
            let mut place = self.agent.try_borrow_mut().map_err(|_| "the agent is in use")?;
            // It may have been deployed again meanwhile.
            if !place.as_ref().is_some_and(|agent| agent.is_buried_by(tombstone)) {
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

    /// What the relay's object keeps of an agent that is not here.
    ///
    /// # Errors
    /// If storage fails, or the relay's object.
    pub(super) async fn tombstone_of(self: &Rc<Self>, agent: &PubKey) -> Result<Option<Tombstone>, String> {
        // An object without an agent stays empty as long as nothing is deployed there.
        if self.has_agent()? && self.with(|agent| agent.agent().state().is_some())? {
            return Ok(None);
        }
        let kept = self.ask_relay(TOMBSTONE_PATH, agent.to_string().into_bytes()).await?;
        let kept = (!kept.is_empty()).then(|| Tombstone::from_json(&kept));
        kept.transpose().map_err(|error| error.to_string())
    }
}
