//! NIP-05: the local part under which an agent is found at the host's domain.

use relay_engine::types::PubKey;

use super::npub;

/// The local part for an agent: its name in lower case with only `a-z0-9-_.`, other characters being one `-`; or the npub
/// if no letter or digit is left. Never `_`, which stands for the domain itself.
pub fn nip05_name(name: &str, pubkey: &PubKey) -> String {
    let mut local = String::with_capacity(name.len());
    for character in name.chars().map(|character| character.to_ascii_lowercase()) {
        match character {
            'a'..='z' | '0'..='9' | '_' | '.' => local.push(character),
            _ if local.ends_with('-') => {}
            _ => local.push('-'),
        }
    }
    let local = local.trim_matches(|character: char| !character.is_ascii_alphanumeric());
    if local.is_empty() { npub(pubkey) } else { local.to_owned() }
}
