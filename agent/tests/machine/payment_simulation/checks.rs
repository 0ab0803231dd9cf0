//! What holds after each step, and at the end.

use std::collections::BTreeMap;

use relay_agent::job::JobState;
use relay_agent::testing::Customer;
use relay_engine::sql::{SqlConn as _, SqlValue};
use relay_engine::types::{Event, PubKey};

use super::shares::{self, SHARE};
use super::{CUSTOMERS, PRICE, Simulation, UNPAID_MAX};
use crate::wallet::Holding;

impl Simulation {
    /// What is stored, whatever the agent has in memory.
    pub(super) fn check_database(&self) -> BTreeMap<Vec<u8>, i64> {
        let (mut accounts, mut entries) = (BTreeMap::new(), BTreeMap::<Vec<u8>, i64>::new());
        let int =
            |value: &SqlValue<'_>| if let SqlValue::Int(int) = value { *int } else { panic!("{value:?}") };
        let bytes = |value: &SqlValue<'_>| {
            if let SqlValue::Blob(blob) = value { blob.to_vec() } else { panic!("{value:?}") }
        };
        let sqlite = &self.world.sqlite;
        sqlite
            .query("SELECT account, msat FROM agent_account", &[], &mut |row| {
                accounts.insert(bytes(&row[0]), int(&row[1]));
                Ok(())
            })
            .unwrap();
        sqlite
            .query("SELECT debit, credit, msat FROM agent_ledger", &[], &mut |row| {
                *entries.entry(bytes(&row[0])).or_default() += int(&row[2]);
                *entries.entry(bytes(&row[1])).or_default() -= int(&row[2]);
                Ok(())
            })
            .unwrap();
        assert_eq!(accounts, entries, "seed {}", self.seed);
        assert_eq!(accounts.values().sum::<i64>(), 0, "seed {}", self.seed);
        let came = accounts.get(&b"wallet"[..]).copied().unwrap_or_default();
        let paid = self.all_paid().values().sum::<u64>() as i64;
        assert!(came <= paid, "seed {}: {came} came of {paid}", self.seed);
        for (account, balance) in &accounts {
            // What fees were more than customers bear is the agent's loss.
            // Of what was given back a share may have been paid out.
            let may_be_owed = *account == b"wallet" || *account == b"income" || account.len() == 20;
            assert!(may_be_owed || *balance <= 0, "seed {}: {account:?} {balance}", self.seed);
        }
        // Jobs that are begun and not paid are those that are counted.
        let unpaid = "SELECT coalesce((SELECT sum(open) FROM agent_unpaid), 0), coalesce((SELECT max(open) FROM agent_unpaid), 0), \
             (SELECT count(*) FROM agent_job WHERE state < 4 AND CAST(trace AS TEXT) LIKE '%is_postpaid%'), \
             (SELECT count(*) FROM agent_withheld), (SELECT count(*) FROM agent_job WHERE state = -2)";
        sqlite
            .query(unpaid, &[], &mut |row| {
                let [open, most, jobs, results, withheld] = [0, 1, 2, 3, 4].map(|at| int(&row[at]));
                assert_eq!((open, results), (jobs, withheld), "seed {}", self.seed);
                assert!(most <= UNPAID_MAX, "seed {}: {most} jobs on trust", self.seed);
                Ok(())
            })
            .unwrap();
        accounts
    }

    /// A result is published when it is paid, and nothing of it before but a sample.
    pub(super) fn check_published(&self, event: &Event) {
        let Some((_, request)) = self.requests.iter().find(|(_, request)| {
            event.tags().find(b"e").is_some_and(|id| *id == *request.id.to_string().as_bytes())
        }) else {
            return;
        };
        let (id, is_result) = (request.id, event.kind == 6050);
        if !is_result {
            let json = String::from_utf8_lossy(event.json());
            return assert!(!json.contains("as it was asked for"), "seed {}: {json}", self.seed);
        }
        // A disk that fails cannot be read.
        if self.is_full || self.world.sqlite.is_armed() {
            return;
        }
        let job = self.world.agent.job(&id).unwrap().expect("stored");
        assert_eq!(job.cost_msat, PRICE, "seed {}: a result that is not paid", self.seed);
    }

    /// What was paid is what was delivered, is credit, and was paid out, for each customer. How many jobs were delivered, and how much was
    /// paid out.
    pub(super) fn check(&mut self) -> (u64, u64) {
        let seed = self.seed;
        assert!(self.world.agent.is_idle(), "seed {seed}");
        let accounts = self.check_database();
        let of = |name: &[u8]| accounts.get(name).copied().unwrap_or_default();
        let (mut earned, mut delivered) = (BTreeMap::<PubKey, u64>::new(), 0);
        for (customer, request) in &self.requests {
            let job = self.world.agent.job(&request.id).unwrap().expect("a job");
            assert!(job.state.is_final(), "seed {seed}: {:?}", job.state);
            // Feedback that the relay had not taken when the process ended is published after what it had.
            let mut answers = self.world.host.answers_to(&request.id);
            answers.sort_by_key(|(_, event)| event.created_at);
            let times: Vec<_> = answers.iter().map(|(status, event)| (status, event.created_at)).collect();
            assert!(times.is_sorted_by(|(_, a), (_, b)| a < b), "seed {seed}: {:?} {times:?}", job.state);
            let count = |wanted: &str| answers.iter().filter(|(status, _)| status == wanted).count();
            match job.state {
                JobState::Done => {
                    assert_eq!(
                        (count("result"), count("error"), job.cost_msat),
                        (1, 0, PRICE),
                        "seed {seed}"
                    );
                    assert_eq!(answers.last().unwrap().0, "result", "seed {seed}");
                    *earned.entry(customer.pubkey()).or_default() += PRICE;
                    delivered += 1;
                }
                // Its work had begun, and was paid before.
                JobState::Cancelled if job.attempts > 0 && (self.policy == "prepay" || job.cost_msat > 0) => {
                    assert_eq!((count("result"), job.cost_msat), (0, PRICE), "seed {seed}");
                    *earned.entry(customer.pubkey()).or_default() += PRICE;
                }
                _ => assert_eq!((count("result"), job.cost_msat), (0, 0), "seed {seed}: {:?}", job.state),
            }
        }
        let (refunded, lost) = self.check_refunds();
        let (shared, lost_of_shares) = self.check_payouts();
        let paid = self.all_paid();
        let mut held = self.wallet.invoices.values().filter_map(|invoice| invoice.hold);
        assert!(!held.any(|hold| matches!(hold, Holding::Held(_))), "seed {seed}: something is held");
        for number in 1..=CUSTOMERS {
            let customer = Customer::new(number).pubkey();
            let of = |sums: &BTreeMap<PubKey, u64>| sums.get(&customer).copied().unwrap_or_default();
            let credit = self.world.agent.credit_of(&customer).unwrap();
            let all = of(&earned) + credit + of(&refunded);
            assert_eq!(of(&paid), all, "seed {seed}: customer {number}");
        }
        let jobs = earned.values().sum::<u64>() / PRICE;
        let shares = if shares::are_there(seed) { jobs * SHARE } else { 0 };
        let due: i64 =
            accounts.iter().filter(|(account, _)| account.len() == 20).map(|(_, balance)| -balance).sum();
        assert_eq!(due + shared as i64, shares as i64, "seed {seed}: {jobs} jobs, {shared} paid");
        let income = (lost + lost_of_shares + shares) as i64 - (jobs * PRICE) as i64;
        assert_eq!((of(b"held"), of(b"refunds"), of(b"income")), (0, 0, income), "seed {seed}");
        (delivered, refunded.values().sum())
    }

    /// What the wallet has paid out to each customer, with the fees that they bear, and what fees were more: an invoice once, or it is credit
    /// again.
    fn check_refunds(&self) -> (BTreeMap<PubKey, u64>, u64) {
        let (seed, mut refunded, mut lost) = (self.seed, BTreeMap::<PubKey, u64>::new(), 0);
        for number in 1..=CUSTOMERS {
            let customer = Customer::new(number).pubkey();
            for record in self.world.agent.refunds_of(&customer, 1_000).unwrap() {
                let payment = self.wallet.outgoing.get(&record.payment_hash);
                let paid = payment.filter(|payment| payment.state == "settled");
                let state = if paid.is_some() { "paid" } else { "failed" };
                assert_eq!(record.state, state, "seed {seed}: {payment:?}");
                let Some(paid) = paid else { continue };
                assert_eq!((paid.times, paid.msat), (1, record.msat), "seed {seed}");
                *refunded.entry(customer).or_default() += record.msat + record.fees_msat;
                lost += paid.fee - record.fees_msat;
            }
        }
        let paid = self.wallet.outgoing.values().filter(|payment| payment.state == "settled");
        let out: u64 = paid.map(|payment| payment.msat + payment.fee).sum();
        let (shared, lost_of_shares) = self.check_payouts();
        let asked = refunded.values().sum::<u64>() + lost + shared + lost_of_shares;
        assert_eq!(out, asked, "seed {seed}: what nobody asked for");
        (refunded, lost)
    }
}
