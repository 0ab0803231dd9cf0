//! `GET` and `HEAD` of a blob (BUD-01), and pull-through (BUD-10): a blob that is not here is fetched from the servers that the
//! request names.

use relay_engine::types::{Event, Filter, PubKey};
use url::{Url, form_urlencoded};

use super::conditions::{ConditionResult, check_conditions, date, etag};
use super::payment::{self, Price};
use super::request::{blob, may_download, not_for_this_key, number};
use super::response::{Body, Response};
use super::step::{Input, Step, StepError};
use super::storing::{Expected, Plan, Progress, Source, StoredBlob, Storing, StoringError, problem};
use super::{Context, Head, State, Transition};
use crate::blob::{Blob, Sha256};
use crate::index::{Command, Outcome, Refusal};
use crate::mime;

/// Who owns what was pulled from other servers: this relay. It is no point of the curve, so that nobody can sign for it.
pub const RELAY_OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Seconds for which a browser keeps a blob.
const CACHE_SECONDS: u64 = 31_536_000;
/// Seconds for which caches that many clients share do: then they ask again, so that a deletion or a ban reaches them.
const SHARED_CACHE_SECONDS: u64 = 3_600;

/// Kind of a list of servers (BUD-03).
const SERVER_LIST: u16 = 10063;

/// Most servers that one request may name, and most authors.
const HINTS_MAX: usize = 5;

/// What a browser may do with any blob but a PDF: show it. Whatever it takes the blob for, no script of it runs and it has no
/// origin. Styles and embedded pictures are harmless, and without them an SVG looks wrong; a browser that shows a picture or a video
/// loads it from here once more.
const SANDBOX: &str = "default-src 'none'; sandbox; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self' data:; \
    font-src data:; base-uri 'none'; form-action 'none'";

/// What a host asks its relay for at [`Step::FindServers`]: the lists of servers of these keys, in hexadecimal.
pub fn server_lists(authors: &[String]) -> Filter {
    let authors = authors.iter().filter_map(|author| PubKey::from_hex(author.as_bytes()).ok()).collect();
    Filter { kinds: Some([SERVER_LIST].into()), authors: Some(authors), ..Filter::default() }
}

/// The servers in these lists, in their order, for [`Input::Servers`].
pub fn listed_servers(lists: &[Event]) -> Vec<String> {
    let tags = lists.iter().flat_map(|list| list.tags().named(b"server"));
    tags.filter_map(|tag| Some(String::from_utf8_lossy(&tag.value()?).into_owned())).collect()
}

/// A download.
#[derive(Clone, Debug)]
pub(super) enum Read {
    /// The index looks for it; whether this key owns it is to be asked then.
    Look(Sha256, Option<PubKey>),
    /// Whether the key owns it.
    Own(Box<Blob>),
    /// The lists of servers of the authors are read.
    Servers(Hints),
    /// It is fetched.
    Pull(Box<Storing>),
    /// Somebody has brought it meanwhile.
    LookAgain,
    /// The proof of payment is checked and spent.
    Pay(Box<Blob>),
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    let (sha256, _) = blob(head.param.as_deref())?;
    let owner = may_download(context, head, &sha256)?;
    Ok((State::Read(Read::Look(sha256, owner)), Step::Ask(Command::Get(sha256))))
}

impl Read {
    pub(super) fn resume(self, context: &Context<'_>, head: &Head, input: Input) -> Transition {
        match self {
            Read::Look(sha256, Some(owner)) => match input {
                Input::Answered(Outcome::Blob(blob)) => {
                    let command = Command::IsOwner { sha256, owner: owner.to_string() };
                    Ok((State::Read(Read::Own(Box::new(blob))), Step::Ask(command)))
                }
                // Whether there is one is not told.
                Input::Answered(Outcome::Missing) => Err(not_for_this_key()),
                other => Err(problem(other).into()),
            },
            Read::Own(blob) => match input {
                Input::Answered(Outcome::Accepted) => charge_or_serve(context, head, *blob),
                Input::Answered(Outcome::Missing) => Err(not_for_this_key()),
                other => Err(problem(other).into()),
            },
            Read::Look(sha256, None) => match input {
                Input::Answered(Outcome::Blob(blob)) => charge_or_serve(context, head, blob),
                // HEAD does not pull: type and length would be known only from the fetched bytes.
                Input::Answered(Outcome::Missing) if head.is_head() => Err(missing()),
                Input::Answered(Outcome::Missing) => match Hints::read(context, head, sha256) {
                    Some(hints) if !hints.authors.is_empty() => {
                        let authors = hints.authors.clone();
                        Ok((State::Read(Read::Servers(hints)), Step::FindServers { authors }))
                    }
                    Some(hints) => hints.pull(context),
                    None => Err(missing()),
                },
                other => Err(problem(other).into()),
            },
            Read::LookAgain => match input {
                Input::Answered(Outcome::Blob(blob)) => charge_or_serve(context, head, blob),
                Input::Answered(Outcome::Missing) => Err(missing()),
                other => Err(problem(other).into()),
            },
            Read::Pay(blob) => {
                payment::paid(input)?;
                Err(serve(context, head, *blob))
            }
            Read::Servers(mut hints) => {
                if let Input::Servers(servers) = input {
                    for server in servers {
                        hints.add(context, &server);
                    }
                }
                hints.pull(context)
            }
            Read::Pull(storing) => match storing.resume(context, input) {
                Progress::Step(storing, step) => Ok((State::Read(Read::Pull(storing)), step)),
                // It is here now, whoever has brought it.
                Progress::End(Err(StoringError::Failed(StepError::Raced))) => {
                    let (sha256, _) = blob(head.param.as_deref())?;
                    Ok((State::Read(Read::LookAgain), Step::Ask(Command::Get(sha256))))
                }
                Progress::End(Ok(StoredBlob::Created(blob) | StoredBlob::Existing(blob))) => {
                    charge_or_serve(context, head, blob)
                }
                Progress::End(Err(problem)) => Err(match problem {
                    problem @ (StoringError::Busy | StoringError::Pulling) => problem.into(),
                    StoringError::Failed(failure @ (StepError::Full | StepError::Store(_))) => failure.into(),
                    StoringError::Refused(refusal @ (Refusal::TotalQuota | Refusal::TooMany)) => {
                        refusal.into()
                    }
                    StoringError::Internal => Response::internal(),
                    _ => Response::error(404, "not found, and none of the named servers gives it"),
                }),
            },
        }
    }
}

fn missing() -> Response {
    Response::error(404, "not found")
}

/// Responds with a blob that is here, after its payment if its bytes are to be sent and cost something.
fn charge_or_serve(context: &Context<'_>, head: &Head, blob: Blob) -> Transition {
    let ConditionResult::Send(_) = check_conditions(head, &blob) else {
        return Err(serve(context, head, blob));
    };
    // A range costs as much as the whole blob, and its payment is good for all of it: a download that broke off goes on by ranges.
    match Price::of_download(context, head, &blob) {
        None => Err(serve(context, head, blob)),
        Some(price) if price.has_proof() => Ok((State::Read(Read::Pay(Box::new(blob))), price.spend())),
        Some(price) => Ok((State::Invoice, price.quote())),
    }
}

/// The response with a blob that is here.
fn serve(context: &Context<'_>, head: &Head, blob: Blob) -> Response {
    let verdict = check_conditions(head, &blob);
    let size = blob.size;
    match verdict {
        ConditionResult::Failed => Response::error(412, "precondition failed"),
        ConditionResult::Unsatisfiable => Response::error(416, &format!("the blob has {size} bytes"))
            .with("content-range", format!("bytes */{size}"))
            .with("accept-ranges", "bytes"),
        ConditionResult::NotModified => with_validators(Response::empty(304), context, &blob),
        ConditionResult::Send(range) => {
            let status = if range.is_some() { 206 } else { 200 };
            // Stored types are parsed, but the edge takes them from objects that others may have written.
            let mime = mime::parse(&blob.mime).unwrap_or_else(|_| mime::UNKNOWN.to_owned());
            let mut response = with_validators(Response::empty(status), context, &blob)
                .with("content-type", mime.clone())
                .with("x-content-type-options", "nosniff")
                .with("accept-ranges", "bytes");
            if let Some(range) = &range {
                let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                response = response.with("content-range", value);
            }
            if !mime::is_pdf(&mime) {
                response = response.with("content-security-policy", SANDBOX);
            }
            if let Some(thumbnail) = blob.media.as_ref().and_then(|media| media.thumbnail) {
                // Draft "blob previews", hzrd149/blossom#101.
                response = response.with("link", format!("</{thumbnail}>; rel=\"preview\""));
            }
            // An empty blob has no bytes to look up.
            if size > 0 {
                response.body = Body::Blob { blob: Box::new(blob), range };
            }
            response
        }
    }
}

/// Adds validators and rules for caches. `no-transform`: a cache must not compress, since lengths and ranges are those of the blob.
fn with_validators(response: Response, context: &Context<'_>, blob: &Blob) -> Response {
    let left = blob.expires_at.map_or(CACHE_SECONDS, |at| at.saturating_sub(context.now).min(CACHE_SECONDS));
    let shared = left.min(SHARED_CACHE_SECONDS);
    // A shared cache must not give away what somebody has paid for.
    let is_public = context.settings.get_public && !context.settings.payment.sells_downloads();
    let cache = match is_public {
        true => format!("public, max-age={left}, s-maxage={shared}, immutable, no-transform"),
        false => format!("private, max-age={left}, immutable, no-transform"),
    };
    let mut response = response.with("etag", etag(&blob.sha256)).with("cache-control", cache);
    let dates = [("last-modified", Some(blob.uploaded)), ("sunset", blob.expires_at)];
    for (name, seconds) in dates {
        if let Some(date) = seconds.and_then(date) {
            response = response.with(name, date);
        }
    }
    response
}

/// Where a blob may be (`xs`, `as`, `sz` of BUD-10).
#[derive(Clone, Debug)]
pub(super) struct Hints {
    sha256: Sha256,
    extension: Option<String>,
    urls: Vec<String>,
    authors: Vec<String>,
    size: Option<u64>,
}

impl Hints {
    /// The hints in the query, if blobs are pulled and there are any. Where downloads cost something, none is pulled: its price
    /// would be known only when it is stored here.
    fn read(context: &Context<'_>, head: &Head, sha256: Sha256) -> Option<Self> {
        if !context.settings.pull_through || context.settings.payment.sells_downloads() {
            return None;
        }
        let (_, extension) = blob(head.param.as_deref()).ok()?;
        let extension = extension.map(str::to_owned);
        let mut hints = Hints { sha256, extension, urls: Vec::new(), authors: Vec::new(), size: None };
        for (name, value) in form_urlencoded::parse(head.query().as_bytes()) {
            match &*name {
                "xs" => hints.add(context, &value),
                "as" if hints.authors.len() < HINTS_MAX && value.parse::<Sha256>().is_ok() => {
                    hints.authors.push(value.into_owned());
                }
                "sz" => hints.size = number(&value),
                _ => {}
            }
        }
        let has_any = !(hints.urls.is_empty() && hints.authors.is_empty());
        let fits = hints.size.is_none_or(|size| size <= context.settings.blob_bytes_max);
        (has_any && fits).then_some(hints)
    }

    /// Adds a server, with or without scheme, unless it is this one.
    fn add(&mut self, context: &Context<'_>, server: &str) {
        let text = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let Ok(mut url) = Url::parse(&text) else { return };
        let is_right = match url.scheme() {
            "https" => true,
            "http" => context.settings.allow_private_addresses,
            _ => false,
        };
        let own = Url::parse(context.base_url).ok();
        let is_own = own.is_some_and(|own| own.host() == url.host() && own.port() == url.port());
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !is_right || is_own || has_user || self.urls.len() >= HINTS_MAX {
            return;
        }
        let extension = self.extension.as_ref().map_or(String::new(), |extension| format!(".{extension}"));
        url.set_path(&format!("{}{extension}", self.sha256));
        url.set_query(None);
        url.set_fragment(None);
        let url = String::from(url);
        if !self.urls.contains(&url) {
            self.urls.push(url);
        }
    }

    fn pull(self, context: &Context<'_>) -> Transition {
        if self.urls.is_empty() {
            return Err(missing());
        }
        let plan = Plan {
            owner: RELAY_OWNER.to_owned(),
            source: Source::Fetch(self.urls.clone()),
            expected: Expected::Is(self.sha256),
            length: self.size,
            bytes_max: context.settings.blob_bytes_max,
            // The quota of a key is for uploaders.
            key_bytes_max: None,
            mime: None,
            extension: self.extension,
            media: None,
            pull: Some(self.urls.clone()),
            price: None,
            must_be_here: false,
        };
        let (storing, step) = Storing::begin(context, plan);
        Ok((State::Read(Read::Pull(storing)), step))
    }
}
