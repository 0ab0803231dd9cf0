//! Results of other jobs as inputs: which ones are asked for, and which count.

use relay_engine::types::{Event, EventId, Filter, Kind, PubKey, TagFilter, unescape};
use relay_engine::wire::parse_event;

use crate::cipher;
use crate::identity::{EventSigner, Sign};
use crate::job::JobRequest;
use crate::nip90;

/// Keys named by the request of another job that are asked for.
const NAMED_MAX: usize = 16;

/// Why the text of another job's result is not to be had.
pub(super) enum NoResult {
    /// Not yet.
    Missing,
    /// Never, as a message for the customer.
    Never(String),
}

/// The results of a job, by those whom its request names if it names any.
pub(super) fn results_of(id: &str, asked: Option<&Event>) -> Filter {
    let tags = Box::new([TagFilter { letter: b'e', values: Box::new([id.as_bytes().into()]) }]);
    let mut named = asked.map(nip90::named_keys).unwrap_or_default();
    named.truncate(NAMED_MAX);
    let authors = (!named.is_empty()).then(|| named.into());
    let kinds = Some((6000..=6999).collect::<Vec<Kind>>().into());
    let mut filter = Filter { kinds, authors, tags, ..Filter::default() };
    filter.normalise();
    filter
}

/// The jobs that a request has as inputs, as far as it is not encrypted.
pub(super) fn job_inputs(request: &Event) -> Vec<EventId> {
    let inputs = request.tags().named(b"i");
    let jobs = inputs.filter(|tag| tag.fields().nth(2) == Some(b"job"));
    jobs.filter_map(|tag| EventId::from_hex(&tag.value()?).ok()).collect()
}

/// The request that a result holds, if it is that of job `id`.
fn request_in(result: &Event, id: &EventId) -> Option<Event> {
    let json = result.tags().find(b"request")?;
    let raw = parse_event(&json).ok()?;
    (raw.compute_id() == *id).then(|| raw.to_event()).filter(|event| event.id == *id)
}

/// The text of the oldest result of job `id` that counts, and the jobs that it had as inputs. `asked` is its request if the
/// relay has it; a result may hold it, too, and does not count if there is neither. A result counts if the request names its
/// author. If the request names nobody it counts if it holds the request, or is addressed to its customer.
pub(super) fn result_of(
    events: &[Event],
    id: &EventId,
    asked: Option<&Event>,
    request: &JobRequest,
    author: &EventSigner,
) -> Result<(String, Vec<EventId>), NoResult> {
    let hex = id.to_string();
    let is_about = |event: &&Event| {
        let e = event.tags().find(b"e");
        nip90::is_result(event.kind) && e.is_some_and(|e| *e == *hex.as_bytes())
    };
    let mut results: Vec<&Event> = events.iter().filter(is_about).collect();
    results.sort_by_key(|event| (event.created_at, event.id));
    for result in results {
        let held = request_in(result, id);
        let Some(asked) = asked.or(held.as_ref()) else { continue };
        let named = nip90::named_keys(asked);
        let counts = match named.is_empty() {
            true => held.is_some() || nip90::named_keys(result).contains(&asked.pubkey),
            false => named.contains(&result.pubkey),
        };
        if counts {
            return Ok((text_of_result(result, &asked.pubkey, request, author)?, job_inputs(asked)));
        }
    }
    Err(NoResult::Missing)
}

/// The text of a result. An encrypted one is read only for the customer whose it is, if this agent has written it, and if
/// the answer will be encrypted, too.
fn text_of_result(
    result: &Event,
    customer: &PubKey,
    request: &JobRequest,
    author: &EventSigner,
) -> Result<String, NoResult> {
    let text = |raw: &[u8]| String::from_utf8_lossy(&unescape(raw)).into_owned();
    let content = text(result.view().raw_content());
    if result.tags().named(b"encrypted").next().is_none() {
        return Ok(content);
    }
    let is_readable =
        result.pubkey == author.pubkey() && *customer == request.customer && request.cipher.is_some();
    // A remote signer is not asked for what it has encrypted itself.
    let keys = author.keys().filter(|_| is_readable);
    let opened = keys.map(|keys| cipher::decrypt(keys, customer, content.trim()));
    match opened {
        Some(Ok((_, text))) => Ok(text),
        Some(Err(_)) | None => {
            Err(NoResult::Never("the result of the job that is an input is encrypted".to_owned()))
        }
    }
}
