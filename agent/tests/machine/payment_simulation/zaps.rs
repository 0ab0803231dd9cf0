//! Customers zap: their jobs, those of others, too much, too little, late; and others forge, repeat, and pay themselves in the agent's name.

use relay_agent::executor::{HttpError, HttpEvent};
use relay_agent::machine::EffectId;
use relay_agent::testing::Customer;
use relay_engine::types::EventId;

use super::{CUSTOMERS, PRICE, Simulation};
use crate::zapping::Service;

impl Simulation {
    /// Somebody zaps, or makes a receipt of no zap; it reaches the agent as requests do.
    pub(super) fn zap(&mut self) {
        let (agent, now) = (self.world.pubkey(), self.world.now.seconds());
        let Some(check) = self.zap_check else { return self.pay() };
        let (payer, event) = self.zapped();
        let msat = match self.rng.below(8) {
            0 => 1 + self.rng.below(PRICE),
            1 => PRICE + self.rng.below(PRICE),
            _ => PRICE,
        };
        let roll = self.rng.below(20);
        let zap = |service: &mut Service| service.zap(now, &agent, &payer, event.as_ref(), msat);
        let receipt = match roll {
            // By a stranger, with an invoice that looks right.
            0..=2 => zap(&mut Service::of(0x77)).0,
            // Once more.
            3..=5 if !self.receipts.is_empty() => self.rng.pick(&self.receipts).clone(),
            // Of the same payment, another one.
            6 | 7 if !self.receipts.is_empty() => {
                let before = self.rng.pick(&self.receipts).clone();
                let mut tags = relay_agent::identity::Draft::of(&before).tags;
                tags.push(vec!["preimage".to_owned(), format!("{now}")]);
                self.service.receipt(now, tags)
            }
            // The zap request of another one, changed.
            8 => {
                let (receipt, ..) = zap(&mut self.service);
                let mut tags = relay_agent::identity::Draft::of(&receipt).tags;
                for tag in tags.iter_mut().filter(|tag| tag[0] == "description") {
                    tag[1] = tag[1].replacen("for ", "from ", 1);
                }
                self.service.receipt(now, tags)
            }
            // Somebody with an address of the same service has paid himself.
            9 | 10 if check == "wallet" => zap(&mut self.service).0,
            _ => {
                let (receipt, bolt11, preimage) = zap(&mut self.service);
                self.wallet.receive(&bolt11, preimage);
                *self.paid.entry(payer.pubkey()).or_default() += msat;
                self.receipts.push(receipt.clone());
                receipt
            }
        };
        self.undelivered.push(receipt);
    }

    /// Who zaps, and what: a request or an answer to it, whatever has become of the job, or something else.
    fn zapped(&mut self) -> (Customer, Option<EventId>) {
        if self.requests.is_empty() || self.rng.one_in(8) {
            let payer = Customer::new(1 + self.rng.below(CUSTOMERS));
            return (payer, self.rng.one_in(2).then_some(EventId([3; 32])));
        }
        let (customer, request) = self.rng.pick(&self.requests).clone();
        let answers = self.world.host.answers_to(&request.id);
        let event = match answers.last() {
            Some((_, answer)) if !self.rng.one_in(3) => answer.id,
            _ => request.id,
        };
        let payer = match self.rng.one_in(8) {
            true => Customer::new(1 + self.rng.below(CUSTOMERS)),
            false => customer,
        };
        (payer, Some(event))
    }

    /// The service of the Lightning address is asked for its key, and does not always tell it.
    pub(super) fn tell_key(&mut self, id: EffectId) {
        match self.rng.below(8) {
            0 => {
                let failed = HttpEvent::Failed(HttpError::Connection("reset".to_owned()));
                self.world.agent.handle_http(self.world.now, id, failed);
            }
            1 => self.answer_call(id, 503, ""),
            2 => self.answer_call(id, 200, "<html>"),
            _ => self.answer_call(id, 200, &self.service.answer().to_string()),
        }
        self.poll();
    }

    pub(super) fn answer_call(&mut self, id: EffectId, status: u16, body: &str) {
        let (agent, now) = (&mut self.world.agent, self.world.now);
        agent.handle_http(now, id, HttpEvent::Head(status, Vec::new()));
        agent.handle_http(now, id, HttpEvent::Chunk(body.to_owned().into()));
        agent.handle_http(now, id, HttpEvent::End);
    }
}
