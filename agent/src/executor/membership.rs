//! Membership: makes a key a member of the relay (NIP-43). The event that says so is the machine's: it is signed and published with the
//! result.

use relay_engine::types::PubKey;

use super::{Executor, ExecutorContext, ExecutorError, HttpEvent, Output, Step, Task, finish};
use crate::identity::{npub, parse_pubkey};

/// The key that a request wants to be a member: its only input, as an npub or in hexadecimal. It is not taken from the request's author, since
/// a request that comes over HTTP has an author of its own.
///
/// # Errors
/// A message for the customer.
pub(crate) fn wanted<'a>(inputs: impl IntoIterator<Item = &'a str>) -> Result<PubKey, String> {
    let mut inputs = inputs.into_iter();
    let key = inputs.next().and_then(|text| parse_pubkey(text.trim()));
    match (key, inputs.next()) {
        (Some(key), None) => Ok(key),
        _ => {
            Err("the input must be one public key, the new member's: an npub or 64 hexadecimal digits"
                .to_owned())
        }
    }
}

pub(super) struct Membership;

impl Executor for Membership {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        let step = match wanted(task.inputs.iter().map(|input| input.text.as_str())) {
            Ok(key) => {
                let content = format!("{} is a member of this relay", npub(&key));
                finish(task.output_bytes_max, Output { content, tokens: None })
            }
            Err(message) => Step::Failed(ExecutorError {
                message,
                detail: String::new(),
                cause: "inputs",
                is_retryable: false,
                retry_after: None,
            }),
        };
        steps.push(step);
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, _event: HttpEvent, _steps: &mut Vec<Step>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keys;

    #[test]
    fn one_key_is_wanted() {
        let key = Keys::from_secret_bytes([7; 32]).unwrap().pubkey();
        let (hex, npub) = (key.to_string(), npub(&key));
        assert_eq!(wanted([hex.as_str()]), Ok(key));
        assert_eq!(wanted([format!(" {npub}\n").as_str()]), Ok(key));
        for inputs in [&[][..], &["npub1"], &["00"], &[&npub, &npub]] {
            assert!(wanted(inputs.iter().copied()).unwrap_err().contains("one public key"), "{inputs:?}");
        }
    }
}
