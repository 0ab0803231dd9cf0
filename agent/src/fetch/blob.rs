//! URL inputs that name a blob of the host's own Blossom server.

use url::{Host, Url};

use super::{is_in, normal};

/// The SHA-256, in lowercase hexadecimal, of the blob that `url` names on the server at `base_url`: `<base_url>/<sha256>`, with
/// any extension. `None`: it names no blob there, or the server is not one of `allow_domains` (if there are any).
pub fn own_blob(url: &str, base_url: &str, allow_domains: &[String]) -> Option<String> {
    let (url, base) = (Url::parse(url).ok()?, Url::parse(base_url).ok()?);
    let is_plain = url.username().is_empty() && url.password().is_none();
    let (host, own) = (normal(url.host()?.to_owned()), normal(base.host()?.to_owned()));
    let is_same_host = host == own || (is_loopback(&host) && is_loopback(&own));
    let is_same_port = url.port_or_known_default() == base.port_or_known_default();
    if !is_plain || url.scheme() != base.scheme() || !is_same_port || !is_same_host {
        return None;
    }
    if !allow_domains.is_empty() && !is_in(&host, allow_domains) {
        return None;
    }
    let name = url.path().strip_prefix(base.path().trim_end_matches('/'))?.strip_prefix('/')?;
    if name.contains('/') {
        return None;
    }
    let hash = name.split_once('.').map_or(name, |(hash, _)| hash);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hash.len() == 64 && hash.bytes().all(is_hex)).then(|| hash.to_owned())
}

/// Whether a host is this machine, by whichever of its names.
fn is_loopback(host: &Host<String>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(name) => name == "localhost",
    }
}
