//! The relay's stream that feeds the router.

use relay_engine::sql::StoreError;
use relay_engine::store::{Backend, Reader};
use relay_engine::types::{Filter, Now};

use super::super::consumers::retry_ms;
use super::super::{Host, Object, RowCountingConn};
use super::{Agents, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Stream, UNCONFIRMED_MAX};

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Gives the router the next batch of the stream, if it takes one and there is one.
    pub(super) fn take_batch(&mut self, agents: &mut Agents<C>, now: Now) -> bool {
        if !agents.router.is_ready() {
            return false;
        }
        if let Stream::Closed(at, failures) = agents.stream {
            let Some(filters) = agents.router.filters().filter(|_| at <= now) else { return false };
            if self.open_stream_of_agents(agents, filters).is_err() {
                agents.stream = Stream::Closed(now.plus_millis(retry_ms(failures)), failures + 1);
                return false;
            }
        }
        let Stream::Open(stream, _) = agents.stream else { return false };
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
            let Some((_, event)) = self.relay.poll_stream(stream) else { break };
            bytes += event.json().len();
            events.push(event);
        }
        if events.is_empty() {
            self.confirm_position(agents, now);
            return false;
        }
        let Some(position) = self.relay.stream_position(stream) else { return false };
        agents.confirmed = position;
        agents.router.accept(now, events, position);
        true
    }

    /// Stores how far the stream has come, if that is far.
    pub(super) fn confirm_position(&self, agents: &mut Agents<C>, now: Now) {
        let Stream::Open(stream, _) = agents.stream else { return };
        if let Some(position) = self.relay.stream_position(stream)
            && position.0 >= agents.confirmed.0.saturating_add(UNCONFIRMED_MAX)
        {
            agents.confirmed = position;
            agents.router.accept(now, Vec::new(), position);
        }
    }

    /// The first agent is given no event that was stored before it was there, and every one that is stored afterwards.
    pub(super) fn begin_stream(&self, agents: &mut Agents<C>, now: Now) -> Result<(), StoreError> {
        if agents.router.is_empty() && agents.router.is_ready() {
            agents.router.accept(now, Vec::new(), self.relay.store().reader()?.last_seq()?);
        }
        Ok(())
    }

    fn open_stream_of_agents(
        &mut self,
        agents: &mut Agents<C>,
        filters: Vec<Filter>,
    ) -> Result<(), StoreError> {
        agents.confirmed = match agents.router.position()? {
            Some(position) => position,
            None => self.relay.store().reader()?.last_seq()?,
        };
        let stream = self.relay.open_stream(&filters, Some(agents.confirmed))?;
        agents.stream = Stream::Open(stream, filters);
        Ok(())
    }
}
