//! Proofs: from which events the figures of a provider follow.
//!
//! ```text
//! {"pubkey", "npub", "as_of", "window_seconds", "answer_seconds", "outcome_jobs_max", "customer_jobs_max", "figures": {...},
//!  "since", "demands_since", "receipts_since", "forgotten": {author: time}, "announcements": [id],
//!  "jobs": [{"request": E, "result": E, "payment_required": E, "payment": {"demand": E, "zapped": E, "receipt": id}}],
//!  "expired": [id of a request]}
//! ```
//!
//! `E` is the id of an event that the relay serves, or, if the event expires (NIP-40), the event itself, whose signature proves it
//! wherever it comes from, once in a job; or null. `payment` is null unless the job is paid; then it has the answer that asks for payment, what the
//! customer has zapped, and the zap receipt. No other receipt counts. What states a time up to `since` does not count, nor do demands for payment up to `demands_since`, requests of
//! the authors in `forgotten` up to their times, nor receipts up to `receipts_since`: the relay's registry has forgotten some of it, because there was too much. Nor
//! does a request up to `demands_since` without a result: whether payment was asked for is not known. Jobs of `expired` do not count: an answer of the provider has expired that was too large to be kept.

use std::collections::{BTreeMap, HashMap, HashSet};

use relay_agent::identity;
use relay_engine::types::{Event, EventId, PubKey, Timestamp};
use relay_engine::wire;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::evidence::{Evidence, Role};
use crate::figures::{
    ANSWER_SECONDS, CUSTOMER_JOBS_MAX, Figures, OUTCOME_JOBS_MAX, Since, WINDOW_SECONDS, figures, jobs,
};
use crate::receipt::Receipt;
use crate::registry::Proven;

/// Figures as JSON. The names say what the numbers mean.
pub fn figures_json(figures: &Figures, as_of: Timestamp) -> Value {
    let ratio = |thousandths: u64| thousandths as f64 / 1_000.0;
    json!({
        "as_of": as_of,
        "window_seconds": WINDOW_SECONDS,
        "distinct_customers_served": figures.customers,
        "jobs_delivered": figures.delivered,
        "jobs_failed": figures.failed,
        "jobs_unpaid": figures.unpaid,
        "jobs_pending": figures.pending,
        "jobs_paid": figures.paid,
        "distinct_paying_customers": figures.paying,
        "paid_msat": figures.paid_msat,
        "open_requests_answered": figures.open,
        "success_ratio_mean_of_customers": figures.success.map(ratio),
        "success_ratio_lower_bound_95": ratio(figures.success_bound),
        "latency_seconds_median_of_customers": figures.latency,
        "latency_seconds_by_day": figures.latency_by_day,
        "newest_jobs_only": figures.is_capped,
        "newest_payments_only": figures.are_payments_capped,
    })
}

/// An event as the document shows it. Events that are shown whole are not taken apart for it: they may have thousands of tags.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Id(String),
    Event(&'a RawValue),
}

#[derive(Serialize)]
struct ShownJob<'a> {
    request: Option<Shown<'a>>,
    result: Option<Shown<'a>>,
    payment_required: Option<Shown<'a>>,
    payment: Option<ShownPayment<'a>>,
}

#[derive(Serialize)]
struct ShownPayment<'a> {
    demand: Shown<'a>,
    zapped: Shown<'a>,
    receipt: Shown<'a>,
}

#[derive(Serialize)]
struct Document<'a> {
    pubkey: String,
    npub: String,
    as_of: Timestamp,
    window_seconds: u64,
    answer_seconds: u64,
    outcome_jobs_max: usize,
    customer_jobs_max: usize,
    figures: Value,
    since: Timestamp,
    demands_since: Timestamp,
    receipts_since: Timestamp,
    forgotten: BTreeMap<String, Timestamp>,
    announcements: &'a [String],
    jobs: Vec<ShownJob<'a>>,
    expired: Vec<String>,
}

/// The document of a proof.
///
/// # Errors
/// If it cannot be written.
pub fn document(
    provider: &PubKey,
    as_of: Timestamp,
    proven: &Proven,
    announcements: &[String],
) -> Result<String, serde_json::Error> {
    let kept: HashMap<EventId, &[u8]> = proven.kept.iter().map(|(id, json)| (*id, json.as_slice())).collect();
    let shown = |id: EventId| {
        let event = kept.get(&id).and_then(|json| serde_json::from_slice(json).ok());
        event.map_or_else(|| Shown::Id(id.to_string()), Shown::Event)
    };
    let jobs = proven.jobs.counted.iter().map(|job| {
        let mut whole = HashSet::new();
        // What is there already needs no more than its id.
        let mut shown = |id: EventId| if whole.insert(id) { shown(id) } else { Shown::Id(id.to_string()) };
        ShownJob {
            request: Some(shown(job.request)),
            result: job.result.map(|(id, _)| shown(id)),
            payment_required: job.payment_required.map(&mut shown),
            payment: job.payment.map(|payment| ShownPayment {
                demand: shown(payment.demand),
                zapped: shown(payment.zapped),
                receipt: Shown::Id(payment.receipt.to_string()),
            }),
        }
    });
    serde_json::to_string(&Document {
        pubkey: provider.to_string(),
        npub: identity::npub(provider),
        as_of,
        window_seconds: WINDOW_SECONDS,
        answer_seconds: ANSWER_SECONDS,
        outcome_jobs_max: OUTCOME_JOBS_MAX,
        customer_jobs_max: CUSTOMER_JOBS_MAX,
        figures: figures_json(&figures(&proven.jobs, as_of), as_of),
        since: proven.since.results,
        demands_since: proven.since.demands,
        receipts_since: proven.receipts_since,
        forgotten: proven.forgotten.iter().map(|(author, at)| (author.to_string(), *at)).collect(),
        announcements,
        jobs: jobs.collect(),
        expired: proven.jobs.expired.iter().map(EventId::to_string).collect(),
    })
}

/// A proof that has been read.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Whose.
    pub pubkey: PubKey,
    /// As of when.
    pub as_of: Timestamp,
    /// The figures that it claims, as they were written.
    pub claimed: Value,
    /// Events to fetch.
    pub ids: Vec<EventId>,
    /// Events that it shows itself. Their ids are checked, their signatures not yet.
    pub events: Vec<Event>,
    /// Requests of jobs that count.
    pub requests: Vec<EventId>,
    /// Requests that do not count.
    pub expired: Vec<EventId>,
    /// What states a time up to this does not count, other than receipts.
    pub since: Since,
    /// Nor do receipts up to this.
    pub receipts_since: Timestamp,
    /// The receipts that it names.
    pub receipts: Vec<EventId>,
    /// Nor do requests of these authors up to these times.
    pub forgotten: BTreeMap<PubKey, Timestamp>,
}

/// Where a job of a proof has events.
const SHOWN_FIELDS: [&str; 6] =
    ["/request", "/result", "/payment_required", "/payment/demand", "/payment/zapped", "/payment/receipt"];

/// A field as messages name it.
fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".")
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// Which field is wrong.
    pub fn read(document: &Value) -> Result<Proof, String> {
        let constants = [
            ("window_seconds", WINDOW_SECONDS),
            ("answer_seconds", ANSWER_SECONDS),
            ("outcome_jobs_max", OUTCOME_JOBS_MAX as u64),
            ("customer_jobs_max", CUSTOMER_JOBS_MAX as u64),
        ];
        for (name, want) in constants {
            if document[name].as_u64() != Some(want) {
                return Err(format!("{name} is {}, and this version recomputes with {want}", document[name]));
            }
        }
        let text = document["pubkey"].as_str().unwrap_or_default();
        let pubkey = text.parse().map_err(|_| "pubkey: expected a public key".to_owned())?;
        let as_of = document["as_of"].as_u64().ok_or("as_of: expected a time")?;
        let time = |field: &str| document[field].as_u64().ok_or_else(|| format!("{field}: expected a time"));
        let since = Since { results: time("since")?, demands: time("demands_since")? };
        let receipts_since = time("receipts_since")?;
        let forgotten = document["forgotten"].as_object().ok_or("forgotten: expected authors and times")?;
        let forgotten = forgotten.iter().map(|(author, at)| Some((author.parse().ok()?, at.as_u64()?)));
        let forgotten = forgotten.collect::<Option<_>>().ok_or("forgotten: expected authors and times")?;
        let mut proof = Proof {
            pubkey,
            as_of,
            since,
            receipts_since,
            receipts: Vec::new(),
            forgotten,
            claimed: document["figures"].clone(),
            ids: Vec::new(),
            events: Vec::new(),
            requests: Vec::new(),
            expired: Vec::new(),
        };
        let id = |value: &Value, field: &str| {
            let text = value.as_str().unwrap_or_default();
            text.parse::<EventId>().map_err(|_| format!("{field}: expected the id of an event"))
        };
        for job in document["jobs"].as_array().ok_or("jobs: expected a list")? {
            for field in SHOWN_FIELDS {
                let shown = match job.pointer(field).unwrap_or(&Value::Null) {
                    Value::Null => continue,
                    event @ Value::Object(_) => {
                        let text = event.to_string();
                        let event = wire::parse_event(text.as_bytes())
                            .map_err(|_| format!("jobs{}: expected an event", dotted(field)))?;
                        if event.compute_id() != event.id {
                            let dotted = dotted(field);
                            return Err(format!("jobs{dotted}: {} is not the id of this event", event.id));
                        }
                        let event = event.to_event();
                        let id = event.id;
                        proof.events.push(event);
                        id
                    }
                    other => {
                        let id = id(other, &format!("jobs{}", dotted(field)))?;
                        proof.ids.push(id);
                        id
                    }
                };
                match field {
                    "/request" => proof.requests.push(shown),
                    "/payment/receipt" => proof.receipts.push(shown),
                    _ => {}
                }
            }
        }
        // An event that is shown whole may be named again.
        let whole: HashSet<EventId> = proof.events.iter().map(|event| event.id).collect();
        proof.ids.retain(|id| !whole.contains(id));
        for request in document["expired"].as_array().ok_or("expired: expected a list")? {
            proof.expired.push(id(request, "expired")?);
        }
        Ok(proof)
    }

    /// The figures that follow from these events, whose signatures have been checked. `events`: those of the proof, and all other
    /// requests and answers that are known. Of receipts those count that the proof names: a registry keeps a bounded number, and anybody can make more.
    pub fn recompute<'a>(&self, events: impl IntoIterator<Item = &'a Event>) -> Value {
        let named: HashSet<&EventId> = self.receipts.iter().collect();
        figures_json(&self.figures(events, &|receipt| named.contains(&receipt.id)), self.as_of)
    }

    /// How many more jobs would be paid if all receipts counted that there are among these events.
    pub fn unnamed_payments<'a>(&self, events: impl IntoIterator<Item = &'a Event> + Clone) -> u64 {
        let named: HashSet<&EventId> = self.receipts.iter().collect();
        let paid = self.figures(events.clone(), &|receipt| named.contains(&receipt.id)).paid;
        self.figures(events, &|_| true).paid.saturating_sub(paid)
    }

    fn figures<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Event>,
        counts: &dyn Fn(&Receipt) -> bool,
    ) -> Figures {
        let (mut evidence, mut receipts) = (Vec::new(), Vec::new());
        for event in events {
            evidence.extend(Evidence::of(event));
            receipts.extend(Receipt::of(event).filter(counts));
        }
        // The proof shows what has expired.
        evidence.iter_mut().for_each(|one: &mut Evidence| one.is_kept = true);
        let expired: HashSet<&EventId> = self.expired.iter().collect();
        evidence.retain(|one| !expired.contains(&one.request) && !self.is_forgotten(one));
        let mut jobs = jobs(&self.pubkey, self.as_of, self.since, &evidence);
        receipts.retain(|receipt| receipt.at > self.receipts_since);
        jobs.settle(&self.pubkey, self.as_of, self.receipts_since, &receipts);
        figures(&jobs, self.as_of)
    }

    /// Whether it does not count because the relay's registry has forgotten it, or may have.
    pub fn is_forgotten(&self, one: &Evidence) -> bool {
        let of_author = self.forgotten.get(&one.author).filter(|_| one.role == Role::Request);
        !self.since.is_known(one.role, one.at) || of_author.is_some_and(|until| one.at <= *until)
    }

    /// Whether this request counts only with a result, because the registry has forgotten demands for payment of its time.
    pub fn needs_result(&self, request: &Evidence) -> bool {
        request.at <= self.since.demands
    }
}
