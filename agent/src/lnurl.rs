//! Lightning addresses (LUD-16), and the answers of their services (LUD-06, NIP-57).

use std::fmt;
use std::ops::RangeInclusive;

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use relay_engine::types::PubKey;
use serde_json::{Map, Value};
use url::{Host, Url};

/// Longest address, in characters.
const ADDRESS_CHARS_MAX: usize = 320;
/// Longest reason of a service that is passed on, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A Lightning address, `name@domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightningAddress {
    text: String,
    url: Url,
}

/// Why a text is no Lightning address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidAddress(pub &'static str);

impl fmt::Display for LightningAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl LightningAddress {
    /// Reads an address: letters in lowercase, digits, `-`, `_` and `.`, then `@` and a domain. For a service on this machine
    /// the domain may be a loopback address with a port, which is called by http.
    ///
    /// # Errors
    /// [`InvalidAddress`].
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = InvalidAddress("must be a Lightning address: name@domain, in lower case");
        let (name, domain) = text.split_once('@').ok_or(invalid)?;
        let is_letter = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_letter) || text.len() > ADDRESS_CHARS_MAX {
            return Err(invalid);
        }
        let path = format!("/.well-known/lnurlp/{name}");
        let mut url = Url::parse(&format!("https://{domain}{path}")).map_err(|_| invalid)?;
        let written = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // If the parser has changed it, it was not a plain domain.
        if written != domain || url.path() != path || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid);
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let is_domain = url.domain().is_some_and(|name| name.contains('.')) && url.port().is_none();
        if !is_loopback && !is_domain {
            return Err(invalid);
        }
        if is_loopback {
            url.set_scheme("http").map_err(|()| invalid)?;
        }
        Ok(LightningAddress { text: text.to_owned(), url })
    }

    /// Whether its service is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The URL at which its service is asked.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Whether an `lnurl` as clients write it means this address: the URL in bech32 (LUD-01), the URL itself, also as `lnurlp://` (LUD-17), or
    /// the address.
    pub fn matches_lnurl(&self, lnurl: &str) -> bool {
        let text = lnurl.trim().to_ascii_lowercase();
        let text = text.strip_prefix("lightning:").unwrap_or(&text);
        if text == self.text {
            return true;
        }
        let decoded = CheckedHrpstring::new::<Bech32>(text)
            .ok()
            .filter(|checked| checked.hrp().as_str() == "lnurl")
            .and_then(|checked| String::from_utf8(checked.byte_iter().collect()).ok());
        let url = match (&decoded, text.strip_prefix("lnurlp://")) {
            (Some(url), _) => url.clone(),
            (None, Some(rest)) => format!("{}://{rest}", self.url.scheme()),
            (None, None) => text.to_owned(),
        };
        Url::parse(&url).is_ok_and(|url| url == self.url)
    }
}

/// Reads the key with which a service signs zap receipts from its answer (`allowsNostr`, `nostrPubkey`).
///
/// # Errors
/// Why there is none, with the service's words.
pub fn zap_key(body: &[u8]) -> Result<PubKey, String> {
    let answer = pay_request(body)?;
    if answer.get("allowsNostr") != Some(&Value::Bool(true)) {
        return Err("it makes no zap receipts (allowsNostr)".to_owned());
    }
    let key: PubKey = text(&answer, "nostrPubkey")
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| "its nostrPubkey is not a public key".to_owned())?;
    match secp256k1::XOnlyPublicKey::from_byte_array(key.0) {
        Ok(_) => Ok(key),
        Err(_) => Err("its nostrPubkey is not a public key".to_owned()),
    }
}

/// What a service says of payments to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayTerms {
    callback: Url,
    /// Least and most that may be paid at once, in millisatoshis.
    pub msat: RangeInclusive<u64>,
}

impl PayTerms {
    /// Reads the answer of the service of an address (LUD-06).
    ///
    /// # Errors
    /// Why nothing can be paid, with the service's words.
    pub fn read(body: &[u8], address: &LightningAddress) -> Result<Self, String> {
        let answer = pay_request(body)?;
        let callback = Url::parse(text(&answer, "callback")).map_err(|_| "its callback is not a URL")?;
        // Without that, whoever answers on this machine could have anything in its network called.
        let is_same = callback.host() == address.url.host() && callback.port() == address.url.port();
        if callback.scheme() != address.url.scheme() || address.is_loopback() && !is_same {
            return Err("its callback must be an https URL, or for a loopback address an http URL of the same host and port".to_owned());
        }
        let msat = |name: &str| answer.get(name).and_then(Value::as_u64).filter(|msat| *msat > 0);
        match (msat("minSendable"), msat("maxSendable")) {
            (Some(min), Some(max)) if min <= max => Ok(PayTerms { callback, msat: min..=max }),
            _ => Err("it does not tell how much it takes (minSendable, maxSendable)".to_owned()),
        }
    }

    /// Where an invoice for so many millisatoshis is asked for.
    pub fn invoice_url(&self, msat: u64) -> String {
        let mut url = self.callback.clone();
        url.query_pairs_mut().append_pair("amount", &msat.to_string());
        url.into()
    }
}

/// Reads the invoice (BOLT 11) in the answer of a service's callback.
///
/// # Errors
/// Why there is none, with the service's words.
pub fn invoice(body: &[u8]) -> Result<String, String> {
    let answer = object(body)?;
    match text(&answer, "pr") {
        "" => Err("its answer has no invoice (pr)".to_owned()),
        invoice => Ok(invoice.to_owned()),
    }
}

/// A service's answer that describes payments to an address.
fn pay_request(body: &[u8]) -> Result<Map<String, Value>, String> {
    let answer = object(body)?;
    match text(&answer, "tag") {
        "payRequest" => Ok(answer),
        _ => Err("its answer is not a payRequest (LUD-06)".to_owned()),
    }
}

/// A service's answer, if it is no error.
fn object(body: &[u8]) -> Result<Map<String, Value>, String> {
    let Ok(Value::Object(answer)) = serde_json::from_slice(body) else {
        return Err("its answer is not a JSON object".to_owned());
    };
    if text(&answer, "status").eq_ignore_ascii_case("error") {
        let reason = text(&answer, "reason").chars().filter(|character| !character.is_control());
        return Err(format!("it says: {}", reason.take(REASON_CHARS_MAX).collect::<String>()));
    }
    Ok(answer)
}

fn text<'a>(answer: &'a Map<String, Value>, name: &str) -> &'a str {
    answer.get(name).and_then(Value::as_str).unwrap_or_default()
}
