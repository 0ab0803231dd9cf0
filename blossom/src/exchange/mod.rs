//! One request, from its head to its response. [`Exchange::begin`] gives the first [`Step`]; the host carries it out and gives
//! what came of it to [`Exchange::resume`], until [`Step::Respond`].

//!
//! | module | role |
//! |---|---|
//! | `step` | steps and inputs |
//! | `response` | responses, and the status of every refusal and failure |
//! | `request` | what heads say: names of blobs, lengths, types, tokens, permission |
//! | `payment` | what has to be paid, and whether it is |
//! | `conditions` | preconditions and ranges (RFC 9110) |
//! | `storing` | from the start of an upload to its end, wherever the bytes come from |
//! | `read`, `upload`, `parts`, `mirror`, `media`, `delete`, `list`, `report`, `admin` | the endpoints |
//! | `internal_upload` | blobs that the host itself stores, without a request |

mod admin;
mod conditions;
mod delete;
mod internal_upload;
mod list;
mod media;
mod mirror;
mod parts;
mod payment;
mod read;
mod report;
mod request;
mod response;
mod step;
mod storing;
mod upload;

pub use conditions::{PlannedRead, planned_read};
pub use internal_upload::{InternalUpload, InternalUploadStep};
pub use read::{RELAY_OWNER, listed_servers, server_lists};
pub(crate) use request::{is_open, server_url};
pub use response::{Body, Response};
pub use step::{Input, Processed, Receive, Received, Reservation, Retries, Step, StepError, Uploader};

use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Verifier;
use relay_site::nip98::ServerUrl;
use relay_site::{BlossomRoute, BlossomSettings, Found};

/// What a request is checked against.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The settings of Blossom.
    pub settings: &'a BlossomSettings,
    /// The relay's lists of keys.
    pub keys: Keys<'a>,
    /// Where this server is reached, without a slash at the end: `https://cdn.example.com`. If no URL is configured, the host
    /// that the request names.
    pub base_url: &'a str,
    /// The URL to which requests are sent, for signed requests of administrators (NIP-98).
    pub origin: ServerUrl<'a>,
    /// The relay's name, for the page.
    pub name: &'a str,
    /// Whether only this machine can reach the server.
    pub is_local: bool,
    /// Whether the host can carry out [`Step::Process`]. Where it cannot, `/media` is refused before anything is read.
    pub processes_media: bool,
    /// Seconds after which an upload that has not ended counts as abandoned, and is given up even if its bytes still come.
    pub upload_seconds_max: u64,
    /// Unix seconds.
    pub now: Timestamp,
    /// For tokens.
    pub verifier: &'a dyn Verifier,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("base_url", &self.base_url)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// Where blobs are, for a relay with this URL: `wss://host/` is `https://host`.
pub fn base_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("wss", url));
    let scheme = if matches!(scheme, "wss" | "https") { "https" } else { "http" };
    format!("{scheme}://{}", rest.trim_end_matches('/'))
}

/// Whether a request with this `Origin` header, if any, may count as one of this machine ([`Context::is_local`]): pages of any
/// host may send requests to a loopback address.
pub fn is_local_origin(origin: Option<&str>) -> bool {
    let host = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, host)| relay_site::authorization::is_loopback(host))
    };
    origin.is_none_or(host)
}

/// The relay's lists of keys, from its policy.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Administrators: `policy.admin_pubkeys`, and on the server the owner's key in the data folder.
    pub admins: &'a [PubKey],
    /// Keys that may publish, if not all may: `policy.allow_pubkeys`.
    pub allowed: Option<&'a [PubKey]>,
    /// Keys that may not: `policy.deny_pubkeys`.
    pub denied: &'a [PubKey],
}

/// The variable part of a path, for [`Head::param`].
pub fn path_param(found: &Found<'_, '_>) -> Option<String> {
    ["blob", "pubkey", "sha256"].iter().find_map(|name| found.param(name)).map(str::to_owned)
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// What is asked for.
    pub route: BlossomRoute,
    /// In uppercase.
    pub method: String,
    /// From the first slash on, with the query, as it was sent.
    pub path_and_query: String,
    /// The variable part of the path: `{blob}`, `{pubkey}` or `{sha256}`.
    pub param: Option<String>,
    /// Names in lowercase, and values; one line for each.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header; of several lines the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines(name).next()
    }

    /// The values of all lines of a header.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether the response has no body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The query, without the question mark.
    pub fn query(&self) -> &str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Exchange {
    head: Head,
    state: State,
}

/// Where a request is.
#[derive(Clone, Debug)]
enum State {
    Over,
    /// It is to be paid, and an invoice is made.
    Invoice,
    Read(read::Read),
    Upload(upload::Upload),
    Check(upload::Check),
    Part(Box<parts::Patch>),
    Mirror(mirror::Mirror),
    Media(Box<media::MediaUpload>),
    Delete(delete::Delete),
    List(list::List),
    Report(report::Report),
    Admin(admin::AdminRequest),
}

/// The next step and what follows it, or the end.
type Transition = Result<(State, Step), Response>;

impl Exchange {
    /// Reads the head of a request.
    pub fn begin(context: &Context<'_>, head: Head) -> (Self, Step) {
        use BlossomRoute as R;
        let turn = match head.route {
            R::Blob => read::begin(context, &head),
            R::Upload | R::PutBlob => upload::begin(context, &head),
            R::CheckUpload | R::CheckMedia => upload::check(context, &head),
            R::PatchBlob => parts::begin(context, &head),
            R::Mirror => mirror::begin(context, &head),
            R::Media => media::begin(context, &head),
            R::Delete => delete::begin(context, &head),
            R::List => list::begin(context, &head),
            R::Report => report::begin(),
            R::Page => Err(crate::page::answer(context).into()),
            R::Blobs | R::Stat | R::Remove | R::Bans | R::Ban | R::Unban | R::Reports | R::Gc => {
                admin::begin(context, &head)
            }
        };
        let mut exchange = Exchange { head, state: State::Over };
        let step = exchange.take(turn);
        (exchange, step)
    }

    /// Goes on with what came of the last step.
    pub fn resume(&mut self, context: &Context<'_>, input: Input) -> Step {
        let head = &self.head;
        let turn = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => Err(Response::internal()),
            State::Invoice => Err(payment::invoiced(input)),
            State::Read(read) => read.resume(context, head, input),
            State::Upload(upload) => upload.resume(context, input),
            State::Check(check) => check.resume(input),
            State::Part(patch) => patch.resume(context, input),
            State::Mirror(mirror) => mirror.resume(context, head, input),
            State::Media(making) => making.resume(context, input),
            State::Delete(delete) => delete.resume(input),
            State::List(list) => list.resume(context, input),
            State::Report(report) => report.resume(context, input),
            State::Admin(request) => request.resume(context, head, input),
        };
        self.take(turn)
    }

    fn take(&mut self, turn: Transition) -> Step {
        match turn {
            Ok((state, step)) => {
                self.state = state;
                step
            }
            Err(response) => Step::Respond(response.complete(self.head.is_head())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_hosts_are_not_local() {
        for local in ["http://localhost:7777", "http://127.0.0.1", "http://[::1]:8080"] {
            assert!(is_local_origin(Some(local)), "{local}");
        }
        for other in ["https://evil.example", "http://localhost.evil.example", "null", "", "http://10.0.0.1"]
        {
            assert!(!is_local_origin(Some(other)), "{other}");
        }
        assert!(is_local_origin(None));
    }

    #[test]
    fn blobs_are_at_the_relays_url_over_http() {
        for (url, want) in [
            ("wss://relay.example/", "https://relay.example"),
            ("ws://127.0.0.1:7777", "http://127.0.0.1:7777"),
            ("https://relay.example", "https://relay.example"),
        ] {
            assert_eq!(base_url(url), want);
        }
    }
}
