//! Signed requests, and the public keys they go to.

use anyhow::{Context, Result, bail};
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use tungstenite::Message;

use super::Options;
use crate::generate::{Author, Draft, Rng};
use crate::hex;

/// A request.
pub(super) struct Request {
    /// Its id.
    pub(super) id: [u8; 32],
    /// The customer's public key, in hex.
    pub(super) customer: String,
    /// Which of the agents it goes to.
    pub(super) agent: usize,
    /// Its one input.
    pub(super) input: String,
    frame: Option<Message>,
}

/// Threads that sign before the clock starts.
const THREADS: usize = 2;

impl Request {
    /// The requests of a run, rendered and signed.
    pub(super) fn sign_all(options: &Options, now: u64) -> Vec<Request> {
        let customers: Vec<Author> =
            (0..options.customers.max(1) as u64).map(|rank| Author::derive(options.seed, rank)).collect();
        let agents: Vec<String> = options.agents.iter().map(|key| hex::encode(key)).collect();
        let per_thread = options.count.div_ceil(THREADS).max(1);
        let parts: Vec<_> =
            (0..THREADS).map(|at| at * per_thread..options.count.min((at + 1) * per_thread)).collect();
        std::thread::scope(|scope| {
            let workers: Vec<_> = parts
                .into_iter()
                .map(|part| {
                    let (customers, agents) = (&customers, &agents);
                    scope.spawn(move || {
                        part.map(|number| Self::sign(options, number, now, customers, agents))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("signing does not panic")).collect()
        })
    }

    fn sign(options: &Options, number: usize, now: u64, customers: &[Author], agents: &[String]) -> Request {
        let author = number % customers.len();
        let agent = number % agents.len();
        let input = input(options, number);
        let tag = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
        let tags =
            vec![tag(&["i", &input, "text"]), tag(&["output", "text/plain"]), tag(&["p", &agents[agent]])];
        let draft = Draft { author, created_at: now, kind: options.kind, tags, content: String::new() };
        let unsigned = draft.finish(customers);
        let frame = Message::text(format!(r#"["EVENT",{}]"#, unsigned.sign(customers)));
        Request {
            id: unsigned.id,
            customer: customers[author].pubkey.clone(),
            agent,
            input,
            frame: Some(frame),
        }
    }

    /// The frame that publishes it; each is sent once.
    pub(super) fn take_frame(&mut self) -> Message {
        self.frame.take().expect("each request is sent once")
    }
}

/// A text that no other request has, in upper case, so that an agent that turns texts into upper case echoes it too.
fn input(options: &Options, number: usize) -> String {
    let mut rng = Rng::new("relay-bench input", options.seed ^ number as u64);
    let mut text = format!("JOB {number} ");
    let left = options.input_bytes.saturating_sub(text.len());
    text.push_str(&rng.word(left, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
    text
}

/// Reads a public key: an npub or 64 hexadecimal digits.
///
/// # Errors
/// If it is neither.
pub fn key(text: &str) -> Result<[u8; 32]> {
    if let Some(key) = hex::decode32(text.as_bytes()) {
        return Ok(key);
    }
    let checked =
        CheckedHrpstring::new::<Bech32>(text).with_context(|| format!("{text} is not a public key"))?;
    if checked.hrp() != Hrp::parse_unchecked("npub") {
        bail!("{text} is not an npub");
    }
    let bytes: Vec<u8> = checked.byte_iter().collect();
    bytes.try_into().ok().with_context(|| format!("{text} is not 32 bytes"))
}

/// Reads public keys, one a line; empty lines are skipped.
///
/// # Errors
/// With the number of the first line that is none, or if there is none at all.
pub fn read_keys(text: &str) -> Result<Vec<[u8; 32]>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let keys = lines
        .map(|(at, line)| key(line.trim()).with_context(|| format!("line {}", at + 1)))
        .collect::<Result<Vec<_>>>()?;
    if keys.is_empty() {
        bail!("no public keys");
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_npubs_or_hex() {
        // From NIP-19.
        let npub = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
        let hex = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
        assert_eq!(hex::encode(&key(npub).unwrap()), hex);
        assert_eq!(key(npub).unwrap(), key(hex).unwrap());
        let nsec = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
        for bad in ["", "npub1", &npub[..62], &npub.replace("ptg", "ptq"), nsec, &hex[1..]] {
            assert!(key(bad).is_err(), "{bad}");
        }
        assert_eq!(read_keys(&format!("{npub}\n\n {hex} \n")).unwrap().len(), 2);
        assert!(format!("{:#}", read_keys(&format!("{npub}\nx")).unwrap_err()).starts_with("line 2"));
        assert!(read_keys("\n").is_err());
    }
}
