//! Job requests, as clients really write them.

use relay_engine::types::{Event, PubKey};

use super::encrypted::{cipher_message, decrypt_content};
use super::incoming::named_keys;
use super::input::{input, quoted, swapped};
use super::is_request;
use super::relays::{RELAYS_READ_MAX, public_relays};
use super::tags::{OwnedTag, content, has, inner, tags};
use crate::cipher::Cipher;
use crate::identity::Keys;
use crate::job::{Input, JobRequest};

/// Most inputs of a request.
pub const INPUTS_MAX: usize = 256;
/// Most parameters of a request.
pub const PARAMS_MAX: usize = 256;
/// Bytes of all parameters of a request, keys and values; an empty value counts as one. How large inputs may be, the
/// agent's manifest says.
pub const PARAMS_BYTES_MAX: usize = 64 << 10;
/// Longest MIME type, in bytes.
const OUTPUT_BYTES_MAX: usize = 128;

/// Why an event is not taken for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It is not a job request, it names only others, or the agent itself has written it. It is not answered.
    NotForUs,
    /// It is not clear what is to be done.
    Malformed {
        /// What is wrong, for the customer.
        message: String,
        /// Whether it names this agent. An open job is refused silently.
        is_addressed: bool,
        /// The cipher of the request, if it could be decrypted: the answer's, too.
        cipher: Option<Cipher>,
    },
}

impl RequestError {
    /// What the customer has to be told, as `error` feedback, and the cipher for it. `None`: nothing is answered.
    pub fn answer(&self) -> Option<(&str, Option<Cipher>)> {
        match self {
            RequestError::Malformed { message, is_addressed: true, cipher } => Some((message, *cipher)),
            RequestError::Malformed { .. } | RequestError::NotForUs => None,
        }
    }
}

/// Reads a job request. All tags are optional; no input at all is the norm.
///
/// An encrypted one is decrypted, by the cipher that its payload shows, and its hidden tags are read before its clear ones:
/// inputs, parameters and relays of both are taken, `output` and `bid` of the hidden ones if they have them. Keys of
/// parameters are left as they are written; compare them with [`is_same_param`].
///
/// What is of no use is left out: a bid that is not a number, relays that are not public `wss` or beyond the eighth, a `p` that is
/// no key. NIP-40 is the caller's: an expired request has [`Event::is_expired`]. Cost: linear in the size of the event, and a key
/// agreement if it is encrypted.
///
/// # Errors
/// [`RequestError`], with what to answer.
pub fn parse(event: &Event, keys: &Keys) -> Result<JobRequest, RequestError> {
    parse_with(event, &keys.pubkey(), || decrypt_content(event, &event.pubkey, keys).map_err(cipher_message))
}

/// Whether a request is encrypted.
pub fn is_encrypted(event: &Event) -> bool {
    has(event, b"encrypted")
}

/// The payload of an encrypted request and its cipher, told as [`crate::cipher::decrypt`] does.
pub fn payload(event: &Event) -> (Cipher, String) {
    let payload = content(event).trim().to_owned();
    (if payload.contains("?iv=") { Cipher::Nip04 } else { Cipher::Nip44 }, payload)
}

/// As [`parse`], for agent `agent`. `decrypted` gives the text of an encrypted request and its cipher, or a message for the customer
/// why there is none.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    event: &Event,
    agent: &PubKey,
    decrypted: impl FnOnce() -> Result<(Cipher, String), &'static str>,
) -> Result<JobRequest, RequestError> {
    let is_addressed = is_addressed(event, agent)?;
    let mut cipher = None;
    let mut parts = Parts::default();
    let read = |parts: &mut Parts, cipher: &mut Option<Cipher>| -> Result<(), String> {
        if is_encrypted(event) {
            let (used, text) = decrypted()?;
            // Known from here on: what is wrong with the text is not for others to read.
            *cipher = Some(used);
            inner(&text)?.iter().try_for_each(|tag| parts.read(tag))?;
        }
        tags(event, is_of_use).iter().try_for_each(|tag| parts.read(tag))
    };
    if let Err(message) = read(&mut parts, &mut cipher) {
        return Err(RequestError::Malformed { message, is_addressed, cipher });
    }
    Ok(JobRequest {
        id: event.id,
        customer: event.pubkey,
        kind: event.kind,
        created_at: event.created_at,
        is_addressed,
        inputs: parts.inputs,
        params: parts.params,
        output: parts.output,
        bid_msat: parts.bid.flatten(),
        relays: public_relays(parts.relays.iter().map(String::as_str)),
        cipher,
    })
}

/// What is known of an encrypted request before it is decrypted.
///
/// # Errors
/// [`RequestError::NotForUs`].
pub fn parse_undecrypted(event: &Event, agent: &PubKey) -> Result<JobRequest, RequestError> {
    Ok(JobRequest {
        id: event.id,
        customer: event.pubkey,
        kind: event.kind,
        created_at: event.created_at,
        is_addressed: is_addressed(event, agent)?,
        inputs: Vec::new(),
        params: Vec::new(),
        output: None,
        bid_msat: None,
        relays: Vec::new(),
        cipher: None,
    })
}

/// Whether a request names the agent; if not, it names nobody.
fn is_addressed(event: &Event, agent: &PubKey) -> Result<bool, RequestError> {
    let named = named_keys(event);
    let is_addressed = named.contains(agent);
    let is_ours = is_addressed || named.is_empty();
    if !is_request(event.kind) || event.pubkey == *agent || !is_ours {
        return Err(RequestError::NotForUs);
    }
    Ok(is_addressed)
}

/// Whether two keys of parameters are the same: clients write `top-k` and `top_k`.
pub fn is_same_param(a: &str, b: &str) -> bool {
    let spelled =
        |key: &str| key.bytes().map(|byte| if byte == b'-' { b'_' } else { byte }).collect::<Vec<_>>();
    a.len() == b.len() && spelled(a) == spelled(b)
}

/// Whether tags of this name say something about a job. Relays are also listed without a name for their tag.
fn is_of_use(name: &[u8]) -> bool {
    matches!(name, b"i" | b"input" | b"param" | b"output" | b"bid" | b"relays" | b"relay") || is_relay(name)
}

fn is_relay(name: &[u8]) -> bool {
    name.starts_with(b"wss://") || name.starts_with(b"ws://")
}

/// What has been read of a request.
#[derive(Default)]
struct Parts {
    inputs: Vec<Input>,
    params: Vec<(String, Vec<String>)>,
    params_bytes: usize,
    output: Option<String>,
    /// The first `bid`, which may be no number.
    bid: Option<Option<u64>>,
    relays: Vec<String>,
}

impl Parts {
    fn read(&mut self, tag: &OwnedTag) -> Result<(), String> {
        let Some((name, values)) = tag.split_first() else {
            return Ok(());
        };
        match name.as_str() {
            "i" => self.inputs.extend(input(tag)?),
            "input" => self.inputs.push(swapped(tag)?),
            "param" => self.param(values)?,
            "output" if self.output.is_none() => self.output = output(values)?,
            "bid" if self.bid.is_none() => self.bid = Some(values.first().and_then(|text| msat(text))),
            "relays" | "relay" => self.relays(values),
            name if is_relay(name.as_bytes()) => self.relays(tag),
            _ => {}
        }
        match self.inputs.len() > INPUTS_MAX {
            true => Err(format!("the request has more than {INPUTS_MAX} inputs")),
            false => Ok(()),
        }
    }

    fn relays(&mut self, urls: &[String]) {
        let room = RELAYS_READ_MAX - self.relays.len();
        self.relays.extend(urls.iter().take(room).cloned());
    }

    fn param(&mut self, values: &[String]) -> Result<(), String> {
        let Some((key, values)) = values.split_first() else {
            return Ok(());
        };
        self.params_bytes += key.len() + values.iter().map(|value| value.len().max(1)).sum::<usize>();
        if self.params.len() == PARAMS_MAX {
            return Err(format!("the request has more than {PARAMS_MAX} parameters"));
        }
        if self.params_bytes > PARAMS_BYTES_MAX {
            return Err(format!("the parameters have more than {PARAMS_BYTES_MAX} bytes"));
        }
        self.params.push((key.trim().to_owned(), values.to_vec()));
        Ok(())
    }
}

/// The first MIME type of an `output` tag.
fn output(values: &[String]) -> Result<Option<String>, String> {
    let output = values.first().map(|text| text.trim()).filter(|text| !text.is_empty());
    match output.is_some_and(|output| output.len() > OUTPUT_BYTES_MAX) {
        true => Err(format!("output {} is not a MIME type", quoted(output.unwrap_or_default()))),
        false => Ok(output.map(str::to_owned)),
    }
}

/// A number of millisatoshis. `100_000` is one: somebody writes it so. Anything but digits is none.
pub(crate) fn msat(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_number = text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    is_number.then(|| text.replace('_', "").parse().ok()).flatten()
}
