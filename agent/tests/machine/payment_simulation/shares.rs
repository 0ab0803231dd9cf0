//! A friend has a share of what is earned; the service of their address fails, asks for too much, and repeats its invoices.

use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::machine::EffectId;
use relay_engine::sql::{SqlConn as _, SqlValue};
use serde_json::json;

use super::{PRICE, Simulation};
use crate::recipients::{ALICE, Friends, TERMS_URL};

/// Percent of what is earned; and when it is paid out, in millisatoshis: less than a manifest may say, since jobs are few.
const PERCENT: u64 = 80;
const LEAST: u64 = 16_000;
/// Of each job.
pub(super) const SHARE: u64 = PRICE * PERCENT / 100;

/// Whether somebody has a share. The seeds of regressions are of before.
pub(super) fn are_there(seed: u64) -> bool {
    seed % 3 != 2
}

/// What the manifest says of it.
pub(super) fn add(payment: &mut serde_json::Value) {
    payment["splits"] = json!([{"address": ALICE, "percent": PERCENT}]);
    payment["splits_min_msat"] = json!(LEAST);
}

/// Whether a call is to the service of the friend.
pub(super) fn is_call(request: &HttpRequest) -> bool {
    request.url.starts_with("https://friends.example/")
}

impl Simulation {
    /// The friend's service is called, and does not always answer what it should.
    pub(super) fn call_friend(&mut self, id: EffectId, request: &HttpRequest) {
        let now = self.world.now.seconds();
        let asks_for_terms = request.url.starts_with(TERMS_URL);
        let pr = |bolt11: &str| json!({ "pr": bolt11 }).to_string();
        match self.rng.below(10) {
            0 => {
                let failed = HttpEvent::Failed(HttpError::Connection("reset".to_owned()));
                self.world.agent.handle_http(self.world.now, id, failed);
            }
            1 => self.answer_call(id, 503, ""),
            2 => self.answer_call(id, 200, "<html>"),
            3 if !asks_for_terms => {
                let bolt11 = self.friends.invoice(now, 999_000, 600);
                self.answer_call(id, 200, &pr(&bolt11));
            }
            4 if !asks_for_terms && !self.shares.is_empty() => {
                let bolt11 = self.rng.pick(&self.shares).clone();
                self.answer_call(id, 200, &pr(&bolt11));
            }
            5 if !asks_for_terms => {
                let msat = request.url.rsplit_once('=').unwrap().1.parse().unwrap();
                let seconds = 30 + self.rng.below(600);
                let bolt11 = self.friends.invoice(now, msat, seconds);
                self.shares.push(bolt11.clone());
                self.answer_call(id, 200, &pr(&bolt11));
            }
            _ => self.answer_friend(id, request),
        }
        self.poll();
    }

    /// It answers what it should.
    pub(super) fn answer_friend(&mut self, id: EffectId, request: &HttpRequest) {
        let body = self.friends.answer(self.world.now.seconds(), &request.url).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        self.shares.extend(answer["pr"].as_str().map(str::to_owned));
        assert!(answer["pr"].is_string() || answer["callback"] == Friends::terms("alice")["callback"]);
        self.answer_call(id, 200, &body);
    }

    /// What the friend was paid, with the fees that they bear, and what fees were more; each invoice once, or it is due again.
    pub(super) fn check_payouts(&self) -> (u64, u64) {
        let (seed, mut sum, mut lost) = (self.seed, 0, 0);
        let payouts = "SELECT hash, state, msat, fees FROM agent_refund WHERE length(customer) = 20";
        let int = |value: &SqlValue<'_>| {
            if let SqlValue::Int(int) = value { *int as u64 } else { panic!("{value:?}") }
        };
        self.world
            .sqlite
            .query(payouts, &[], &mut |row| {
                let SqlValue::Blob(hash) = row[0] else { panic!("a payment hash") };
                let (state, msat, fees) = (int(&row[1]), int(&row[2]), int(&row[3]));
                let payment = self.wallet.outgoing.get(&faster_hex::hex_string(hash));
                let paid = payment.filter(|payment| payment.state == "settled");
                assert_eq!(state, if paid.is_some() { 2 } else { 3 }, "seed {seed}: {payment:?}");
                if let Some(paid) = paid {
                    assert_eq!((paid.times, paid.msat), (1, msat), "seed {seed}");
                    sum += msat + fees;
                    lost += paid.fee - fees;
                }
                Ok(())
            })
            .unwrap();
        (sum, lost)
    }
}
