//! Where calls may go. A host checks a URL before each call and each redirect ([`check_url`]), and every address to which a
//! name resolves when it connects ([`is_public`]), so a name cannot resolve to another address after the check.

mod addresses;
mod blob;
mod redirect;
mod url_input;

pub use addresses::is_public;
pub use blob::own_blob;
pub use redirect::redirect;
pub use url_input::{UrlInput, get};

use core::net::IpAddr;

use url::{Host, Url};

use crate::executor::Access;

/// Ports of URLs that customers choose. Other ports are more often used to probe hosts than to serve text.
pub const PUBLIC_PORTS: [u16; 2] = [443, 8443];

/// Names and their subdomains that never lead to a public host, whatever they resolve to.
const PRIVATE_NAMES: [&str; 11] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "onion",
];

/// Why a call is not allowed, without anything secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden(pub String);

/// Hosts with private addresses that the operator allows to manifests (`agents.allow_private_hosts`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivateHosts(Vec<(Host<String>, u16)>);

impl PrivateHosts {
    /// Reads entries such as `127.0.0.1:11434`, `[::1]:8080` or `models.internal:443`.
    ///
    /// # Errors
    /// A message that quotes the first entry that is not a host and a port.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, String> {
        let parse = |entry: &str| {
            let (host, port) = entry.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some((normal(Host::parse(host).ok()?), port))
        };
        let parsed = entries.iter().map(|entry| {
            parse(entry.as_ref()).ok_or_else(|| format!("`{}` is not a host and a port", entry.as_ref()))
        });
        parsed.collect::<Result<_, _>>().map(PrivateHosts)
    }

    fn contains(&self, host: &Host<String>, port: u16) -> bool {
        self.0.iter().any(|(allowed, at)| allowed == host && *at == port)
    }
}

/// A URL that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The URL.
    pub url: Url,
    /// The operator allows this host whatever address it has. Otherwise only public addresses may be connected to.
    pub is_private: bool,
}

/// Whether a URL may be called.
///
/// [`Access::Public`]: https on one of [`PUBLIC_PORTS`], to `allow_domains` and their subdomains if there are any.
/// [`Access::Configured`]: https on any port; also http, and private addresses, for hosts in `private`.
/// [`Access::Anywhere`]: http and https to any host.
/// Never with a user or a password, which would be sent to whatever the URL names.
///
/// # Errors
/// The reason.
pub fn check_url(
    url: &str,
    access: Access,
    private: &PrivateHosts,
    allow_domains: &[String],
) -> Result<Destination, Forbidden> {
    let forbidden = |why: &str| Err(Forbidden(why.to_owned()));
    let Ok(url) = Url::parse(url) else { return forbidden("not a URL") };
    if !matches!(url.scheme(), "https" | "http") {
        return forbidden("not https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return forbidden("a user or password in the URL");
    }
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return forbidden("no host");
    };
    let host = normal(host.to_owned());
    if access == Access::Anywhere {
        return Ok(Destination { url, is_private: true });
    }
    if access == Access::Configured && private.contains(&host, port) {
        return Ok(Destination { url, is_private: true });
    }
    if url.scheme() != "https" {
        return forbidden("not https");
    }
    if access == Access::Public && !PUBLIC_PORTS.contains(&port) {
        return forbidden("a port other than 443 and 8443");
    }
    if !is_public_host(&host) {
        return forbidden("not a public host");
    }
    if access == Access::Public && !allow_domains.is_empty() && !is_in(&host, allow_domains) {
        return forbidden("not one of the domains that the agent reads");
    }
    Ok(Destination { url, is_private: false })
}

/// Names without the final dot, which changes nothing for the resolver but would for comparisons.
pub(crate) fn normal(host: Host<String>) -> Host<String> {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_owned()),
        address => address,
    }
}

/// Whether a host may be public, as far as its name tells.
pub(crate) fn is_public_host(host: &Host<String>) -> bool {
    match host {
        Host::Ipv4(address) => is_public(IpAddr::V4(*address)),
        Host::Ipv6(address) => is_public(IpAddr::V6(*address)),
        Host::Domain(name) => is_public_name(name),
    }
}

/// Names without a dot are those of the local network.
fn is_public_name(name: &str) -> bool {
    name.contains('.') && !PRIVATE_NAMES.iter().any(|domain| is_under(name, domain))
}

fn is_in(host: &Host<String>, domains: &[String]) -> bool {
    domains.iter().any(|domain| match Host::parse(domain).map(normal) {
        Ok(Host::Domain(domain)) => matches!(host, Host::Domain(name) if is_under(name, &domain)),
        Ok(address) => *host == address,
        Err(_) => false,
    })
}

fn is_under(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
