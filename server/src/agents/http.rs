//! Calls of agents over HTTP.
//!
//! Each URL is checked by the rules of `relay_agent::fetch`, that of a redirect too, and every address to which a name
//! resolves when it connects; so a literal, a name, a redirect or a changing answer of the name service leads to no private
//! address. Proxies of the environment are not used, nothing is decompressed, and cookies are not kept.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::fetch::{Forbidden, PrivateHosts, check_url, is_public, redirect};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION};
use rustls::RootCertStore;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::tls;

/// Calls that are open at a time; further ones wait. Each takes a file descriptor.
pub(super) const CALLS_MAX: usize = 256;

/// Longest time to connect: name service, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest silence within the body of a response. Before its head only the deadline counts: a model may think long.
const IDLE: Duration = Duration::from_secs(60);

/// Events of a call that wait for its reader; then it reads no more from the socket.
const EVENTS_MAX: usize = 4;

/// Makes calls. Connections are shared by all of them.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    /// Connects to public addresses only.
    public: reqwest::Client,
    /// Connects to any address: for hosts that the operator allows. Two clients, so that a call of a stranger's URL cannot
    /// use a connection to such a host.
    private: reqwest::Client,
    private_hosts: PrivateHosts,
    calls: Semaphore,
    idle: Duration,
}

impl Client {
    /// `private_hosts`: hosts that manifests may name although their addresses are private
    /// (`agents.allow_private_hosts`). Certificates are checked against Mozilla's roots and the system's.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(private_hosts: PrivateHosts) -> io::Result<Self> {
        Client::with(private_hosts, tls::roots(), Arc::new(lookup), is_public, IDLE, CALLS_MAX)
    }

    /// A client that knows these names, and for which other addresses are public.
    #[cfg(test)]
    pub(crate) fn for_names(
        roots: RootCertStore,
        lookup: Arc<Lookup>,
        is_public: fn(IpAddr) -> bool,
    ) -> io::Result<Self> {
        Client::with(PrivateHosts::default(), roots, lookup, is_public, IDLE, CALLS_MAX)
    }

    fn with(
        private_hosts: PrivateHosts,
        roots: RootCertStore,
        lookup: Arc<Lookup>,
        is_public: fn(IpAddr) -> bool,
        idle: Duration,
        calls_max: usize,
    ) -> io::Result<Self> {
        let tls = tls::config(roots)?;
        let client = |may_be_private| {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(Resolver { lookup: Arc::clone(&lookup), is_public, may_be_private })
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .referer(false)
                .connect_timeout(CONNECT)
                .user_agent(concat!("openagents-relay/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(io::Error::other)
        };
        Ok(Client(Arc::new(Shared {
            public: client(false)?,
            private: client(true)?,
            private_hosts,
            calls: Semaphore::new(calls_max),
            idle,
        })))
    }

    /// Starts a call, on the current runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn run(&self, request: HttpRequest) -> Call {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::clone(&self.0);
        let task = tokio::spawn(async move {
            let time_left = until(request.limits.deadline);
            // With no time left a quick call would still succeed.
            let exchange = tokio::time::timeout(time_left, async {
                if time_left.is_zero() {
                    Err(HttpError::Timeout)
                } else {
                    shared.exchange(request, &sender).await
                }
            });
            let error = match exchange.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => HttpError::Timeout,
            };
            // Nobody reads any more: then it does not matter.
            let _ = sender.send(HttpEvent::Failed(error)).await;
        });
        Call { events, task }
    }
}

/// A call. Dropping it ends it.
#[derive(Debug)]
pub struct Call {
    events: mpsc::Receiver<HttpEvent>,
    task: JoinHandle<()>,
}

impl Call {
    /// The next event; `None` after [`HttpEvent::End`] or [`HttpEvent::Failed`]. Cancel safe.
    pub async fn next(&mut self) -> Option<HttpEvent> {
        self.events.recv().await
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn exchange(
        &self,
        mut request: HttpRequest,
        events: &mpsc::Sender<HttpEvent>,
    ) -> Result<(), HttpError> {
        let _call = self.calls.acquire().await;
        let mut response = loop {
            let destination =
                check_url(&request.url, request.access, &self.private_hosts, &request.allow_domains)
                    .map_err(|Forbidden(why)| HttpError::Forbidden(why))?;
            let client = if destination.is_private { &self.private } else { &self.public };
            let method = request.method.parse().map_err(|_| connection("not a method of HTTP"))?;
            let response = client
                .request(method, destination.url)
                .headers(headers(&request.headers)?)
                .body(request.body.clone())
                .send()
                .await
                .map_err(call_error)?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match redirect(&request, response.status().as_u16(), location) {
                Some(next) => request = next,
                None => break response,
            }
        };
        let names = response.headers().iter();
        let head = names.map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let is_gone = |_| connection("its reader is gone");
        let head = HttpEvent::Head(response.status().as_u16(), head.collect());
        let announced =
            response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        events.send(head).await.map_err(is_gone)?;
        let mut room = request.limits.response_bytes_max;
        if request.method != "HEAD" && announced.is_some_and(|bytes: usize| bytes > room) {
            return Err(HttpError::TooLarge);
        }
        loop {
            let chunk = tokio::time::timeout(self.idle, response.chunk()).await;
            let Some(chunk) = chunk.map_err(|_| HttpError::Timeout)?.map_err(call_error)? else { break };
            room = room.checked_sub(chunk.len()).ok_or(HttpError::TooLarge)?;
            events.send(HttpEvent::Chunk(chunk)).await.map_err(is_gone)?;
        }
        events.send(HttpEvent::End).await.map_err(is_gone)
    }
}

/// The time left until a Unix second.
fn until(deadline: u64) -> Duration {
    match UNIX_EPOCH.checked_add(Duration::from_secs(deadline)) {
        Some(deadline) => deadline.duration_since(SystemTime::now()).unwrap_or_default(),
        None => Duration::MAX,
    }
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        // The value may be a secret.
        let invalid = || connection(&format!("the header {name} is not valid"));
        let mut header = HeaderValue::from_str(value).map_err(|_| invalid())?;
        header.set_sensitive(true);
        headers.append(name.parse::<HeaderName>().map_err(|_| invalid())?, header);
    }
    Ok(headers)
}

fn connection(why: &str) -> HttpError {
    HttpError::Connection(why.to_owned())
}

/// The error of a call, without the URL, of which the query may be secret.
fn call_error(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let mut words = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = next {
        if let Some(refused) = error.downcast_ref::<NotPublic>() {
            return HttpError::Forbidden(refused.to_string());
        }
        words.push(error.to_string());
        next = error.source();
    }
    if error.is_timeout() { HttpError::Timeout } else { HttpError::Connection(words.join(": ")) }
}

/// Finds the addresses of a name.
pub(crate) type Lookup = dyn Fn(String) -> Addresses + Send + Sync;
pub(crate) type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// By the system's resolver.
fn lookup(name: String) -> Addresses {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Resolves names to addresses that may be connected to.
struct Resolver {
    lookup: Arc<Lookup>,
    /// Which addresses are public.
    is_public: fn(IpAddr) -> bool,
    may_be_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = (self.lookup)(name.as_str().to_owned());
        let (is_public, may_be_private) = (self.is_public, self.may_be_private);
        Box::pin(async move {
            let addresses = addresses.await?;
            // One private address among public ones is not a mistake but an attack (DNS rebinding).
            if let Some(private) =
                addresses.iter().find(|address| !may_be_private && !is_public(address.ip()))
            {
                return Err(NotPublic(private.ip()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A name resolves to this address.
#[derive(Debug)]
struct NotPublic(IpAddr);

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a public address", self.0)
    }
}

impl Error for NotPublic {}

#[cfg(test)]
#[path = "http_tests/mod.rs"]
mod tests;
