//! The model's authorization (BUD-11).

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use relay_conformance::nostr::{event_id, now, unhex};
use secp256k1::{XOnlyPublicKey, schnorr};
use serde_json::Value;

use super::http::{Request, Response};
use super::{Bug, Model};

/// What a token must name.
pub(crate) enum Hash<'a> {
    /// Nothing: `x` tags are ignored.
    Any,
    /// This blob, if it names any.
    Optional(&'a str),
    /// This blob.
    Required(&'a str),
    /// A blob of which the hash is not known yet.
    Later,
}

fn refuse<T>(reason: &str) -> Result<T, Box<Response>> {
    Err(Box::new(Response::error(401, reason)))
}

/// A valid Nostr event, its id and signature checked.
pub(crate) fn valid_event(model: &Model, event: &Value) -> Option<()> {
    let text = |name: &str| event[name].as_str();
    let tags = event["tags"].as_array()?;
    if !tags.iter().all(|tag| tag.as_array().is_some_and(|tag| tag.iter().all(Value::is_string))) {
        return None;
    }
    let (kind, created_at) = (event["kind"].as_u64()?, event["created_at"].as_u64()?);
    let id = event_id(text("pubkey")?, created_at, kind, &event["tags"], text("content")?);
    if !model.has(Bug::IgnoresId) && unhex(text("id")?)? != id {
        return None;
    }
    let signed: [u8; 32] = unhex(text("id")?)?.try_into().ok()?;
    let pubkey = XOnlyPublicKey::from_byte_array(unhex(text("pubkey")?)?.try_into().ok()?).ok()?;
    let signature = schnorr::Signature::from_byte_array(unhex(text("sig")?)?.try_into().ok()?);
    let valid = schnorr::verify(&signature, &signed, &pubkey).is_ok();
    (valid || model.has(Bug::IgnoresSignature)).then_some(())
}

/// The values of a tag's first element after the name.
pub(crate) fn values<'a>(event: &'a Value, name: &str) -> Vec<&'a str> {
    let tags = event["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    tags.iter().filter(|tag| tag[0] == name).filter_map(|tag| tag[1].as_str()).collect()
}

impl Model {
    /// The key that signed the request's token; `None` if there is no token. A token with a defect is 401.
    pub(crate) fn token(
        &self,
        request: &Request,
        verb: &str,
        hash: &Hash<'_>,
    ) -> Result<Option<String>, Box<Response>> {
        let Some(value) = request.header("authorization") else { return Ok(None) };
        let Some((event, bytes)) = self.decode(value) else { return refuse("no token") };
        if self.has(Bug::BreaksOnGarbage) && !event.is_object() {
            return Err(Box::new(Response::error(500, "broken")));
        }
        if self.has(Bug::BreaksOnFields) && !event["tags"].is_array() {
            return Err(Box::new(Response::error(500, "broken")));
        }
        if bytes > 64 << 10 {
            return refuse("the token is too long");
        }
        if valid_event(self, &event).is_none() {
            return refuse("not a signed event");
        }
        self.validate(&event, verb, hash)?;
        Ok(event["pubkey"].as_str().map(str::to_owned))
    }

    fn decode(&self, value: &str) -> Option<(Value, usize)> {
        let (scheme, text) = value.split_once(' ')?;
        let right =
            if self.has(Bug::SchemeCase) { scheme == "Nostr" } else { scheme.eq_ignore_ascii_case("nostr") };
        if !right {
            return None;
        }
        if self.has(Bug::RefusesUrlSafe) && text.contains(['-', '_']) {
            return None;
        }
        if self.has(Bug::RefusesStandard) && text.contains(['+', '/']) {
            return None;
        }
        if self.has(Bug::RefusesPadding) && text.ends_with('=') {
            return None;
        }
        if self.has(Bug::NeedsPadding) && !text.len().is_multiple_of(4) {
            return None;
        }
        let lax = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = [URL_SAFE, STANDARD]
            .iter()
            .find_map(|alphabet| GeneralPurpose::new(alphabet, lax).decode(text).ok())?;
        let event = serde_json::from_slice(&decoded).ok();
        if event.is_none() && self.has(Bug::BreaksOnGarbage) {
            return Some((Value::Null, decoded.len()));
        }
        Some((event?, decoded.len()))
    }

    fn validate(&self, event: &Value, verb: &str, hash: &Hash<'_>) -> Result<(), Box<Response>> {
        let now = now();
        if event["kind"] != 24242 && !self.has(Bug::IgnoresKind) {
            return refuse("not kind 24242");
        }
        let created_at = event["created_at"].as_u64().unwrap_or(u64::MAX);
        let late = if self.has(Bug::WantsOldTokens) { now - 1 } else { now + 60 };
        if created_at > late && !self.has(Bug::IgnoresCreatedAt) {
            return refuse("created in the future");
        }
        let expiration = values(event, "expiration");
        match expiration.first().map(|text| text.parse::<u64>()) {
            None if self.has(Bug::NeedsNoExpiration) => {}
            Some(Err(_)) if self.has(Bug::ExpirationText) => {}
            Some(Ok(time)) if self.has(Bug::ShortLivedOnly) && time > now + 86_400 => {
                return refuse("valid for too long");
            }
            Some(Ok(time)) if time > now || self.has(Bug::IgnoresExpiration) => {}
            _ => return refuse("expired"),
        }
        let verbs = values(event, "t");
        let fits = verbs.contains(&verb)
            || self.has(Bug::IgnoresVerb)
            || (verbs.is_empty() && self.has(Bug::NeedsNoVerb))
            || (self.has(Bug::IgnoresVerbOfUploads) && matches!(verb, "upload" | "media"));
        if !fits {
            return refuse("for another action");
        }
        if event["content"] == "" && self.has(Bug::NeedsContent) {
            return refuse("no content");
        }
        self.scope(event, hash)
    }

    fn scope(&self, event: &Value, hash: &Hash<'_>) -> Result<(), Box<Response>> {
        let servers = values(event, "server");
        if !servers.is_empty() && !servers.iter().any(|server| self.is_us(server)) {
            return refuse("for another server");
        }
        let mut named = values(event, "x");
        if self.has(Bug::FirstXOnly) {
            named.truncate(1);
        }
        if self.has(Bug::AnyXValue) && event.to_string().contains(&format!(",\"{}\"", hash.text())) {
            return Ok(());
        }
        let tags = event["tags"].as_array().map_or(0, Vec::len);
        if self.has(Bug::FewTags) && tags > 50 {
            return refuse("too many tags");
        }
        match hash {
            Hash::Any if self.has(Bug::ListWithoutX) && !named.is_empty() => refuse("x"),
            Hash::Optional(sha256) if !named.is_empty() && !named.contains(sha256) => {
                if self.has(Bug::GetAnyX) { Ok(()) } else { refuse("for another blob") }
            }
            Hash::Required(_) | Hash::Later if named.is_empty() => {
                if self.has(Bug::NeedsNoX) {
                    Ok(())
                } else {
                    refuse("no x")
                }
            }
            Hash::Required(sha256) if !named.contains(sha256) => {
                if self.has(Bug::IgnoresX) {
                    Ok(())
                } else {
                    refuse("for another blob")
                }
            }
            _ => Ok(()),
        }
    }

    fn is_us(&self, server: &str) -> bool {
        if self.has(Bug::ServerIgnored) {
            return true;
        }
        let ours = "localhost";
        if self.has(Bug::ServerContains) {
            return server.contains(ours);
        }
        if self.has(Bug::ServerExact) {
            return server == ours;
        }
        if self.has(Bug::ServerRefused) {
            return false;
        }
        if self.has(Bug::ServerWithoutPort) && server.trim_start_matches("http://").contains(':') {
            return false;
        }
        let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.split(':').next().unwrap_or_default();
        let same = if self.has(Bug::ServerCase) { host == ours } else { host.eq_ignore_ascii_case(ours) };
        same && !authority.contains('@')
    }
}

impl Hash<'_> {
    fn text(&self) -> &str {
        match self {
            Hash::Optional(text) | Hash::Required(text) => text,
            Hash::Any | Hash::Later => "",
        }
    }
}
