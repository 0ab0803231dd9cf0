//! What the wallet answers: truly, falsely or not at all.

use serde_json::json;

use super::Simulation;
use crate::wallet::{Holding, Invoice, Paying};

/// Whether nobody has paid an invoice: what is said of it otherwise is a lie.
fn is_unpaid(invoice: &Invoice) -> bool {
    invoice.paid.is_none() && matches!(invoice.hold, None | Some(Holding::Nothing))
}

impl Simulation {
    /// The wallet answers a request: truly, falsely or not at all, once or twice.
    pub(super) fn wallet(&mut self) {
        if self.exchanges.is_empty() {
            return;
        }
        let at = self.rng.below(self.exchanges.len() as u64) as usize;
        let id = self.exchanges[at].0;
        if self.exchanges[at].1.is_empty() || self.rng.one_in(10) {
            let info = self.wallet.info();
            return self.answers.push((id, info));
        }
        let request = self.exchanges[at].1.pop().unwrap();
        let (method, params) = self.wallet.read(&request);
        let (now, roll) = (self.world.now.seconds(), self.rng.below(20));
        let hash = params["payment_hash"].as_str().unwrap_or_default().to_owned();
        let error = |code: &str| json!({"result": null, "error": {"code": code, "message": "x"}});
        let answer = match (method.as_str(), roll) {
            (_, 0 | 1) => return,
            (_, 2) => self.wallet.respond(&request, &error("INTERNAL")),
            ("pay_invoice", roll) => {
                self.wallet.paying = match roll {
                    3 => Paying::Refuses("INSUFFICIENT_BALANCE"),
                    4 => Paying::Fails,
                    5..=7 => Paying::TakesLong,
                    _ => Paying::Pays(self.rng.below(13_000)),
                };
                let answer = self.wallet.answer(now, &request);
                if roll > 17 {
                    // It is carried out, and nobody hears of it.
                    return;
                }
                answer
            }
            // It is carried out, and nobody hears of it, or the contrary.
            ("settle_hold_invoice" | "cancel_hold_invoice", 3..=7) => {
                self.wallet.answer(now, &request);
                match roll {
                    3..=5 => return,
                    _ => self.wallet.respond(&request, &error("OTHER")),
                }
            }
            ("make_invoice" | "make_hold_invoice", 3) => self.wallet.respond(&request, &error("RESTRICTED")),
            ("make_invoice" | "make_hold_invoice", 4) if !self.wallet.invoices.is_empty() => {
                // One that it has made before.
                let hash = self.wallet.invoices.keys().next().unwrap().clone();
                let before = self.wallet.transaction(now, &hash);
                self.wallet.respond(&request, &json!({ "result": before }))
            }
            ("lookup_invoice", 3..=8) if self.wallet.invoices.get(&hash).is_some_and(is_unpaid) => {
                let is_hold = self.wallet.invoices[&hash].hold.is_some();
                let mut lie = self.wallet.transaction(now, &hash).unwrap();
                lie["state"] = json!("settled");
                match roll {
                    3 if !self.claimed.contains(&hash) => self.claimed.push(hash),
                    3 | 4 => lie["preimage"] = json!("07".repeat(32)),
                    5 if is_hold => {
                        (lie["state"], lie["payment_hash"]) = (json!("accepted"), json!("07".repeat(32)));
                    }
                    7 if is_hold => (lie["state"], lie["amount"]) = (json!("accepted"), json!(1)),
                    5 => lie["payment_hash"] = json!("07".repeat(32)),
                    6 => {
                        // Another invoice, which is paid.
                        let paid = self.wallet.invoices.iter().find(|(_, invoice)| invoice.paid.is_some());
                        let Some((other, _)) = paid else { return };
                        lie = self.wallet.transaction(now, &other.clone()).unwrap();
                    }
                    7 => lie["amount"] = json!(0),
                    _ => {
                        lie["state"] = json!("pending");
                        let preimage = self.wallet.invoices[&hash].preimage;
                        lie["preimage"] = json!(faster_hex::hex_string(&preimage));
                    }
                }
                self.wallet.respond(&request, &json!({ "result": lie }))
            }
            _ => self.wallet.answer(now, &request),
        };
        self.answers.push((id, answer.clone()));
        if self.rng.one_in(5) {
            self.answers.push((id, answer));
        }
    }

    /// Nodes do not hold payments for ever: one is given back.
    pub(super) fn time_out(&mut self) {
        let is_held = |hash: &&String| matches!(self.wallet.invoices[*hash].hold, Some(Holding::Held(_)));
        let held: Vec<String> = self.wallet.invoices.keys().filter(is_held).cloned().collect();
        if !held.is_empty() {
            let hash = self.rng.pick(&held).clone();
            self.wallet.cancel(&hash);
        }
    }
}
