//! The administrators' API under `/blossom/`. Requests are signed by NIP-98; one that changes something names the hash
//! of its body, also of an empty one.
//!
//! | request | response |
//! |---|---|
//! | `GET /blossom/blobs?owner=&cursor=&limit=&since=&until=` | `{"blobs": [descriptor]}`, newest first |
//! | `GET /blossom/blobs/<sha256>` | a blob with owners, events, reports and ban |
//! | `DELETE /blossom/blobs/<sha256>` | 204; it may be uploaded again |
//! | `GET /blossom/bans?limit=` | `{"bans": [{"sha256", "reason", "at"}]}`, newest first |
//! | `PUT /blossom/bans/<sha256>` with `{"reason": "..."}` or nothing | 204; the blob is removed and refused |
//! | `DELETE /blossom/bans/<sha256>` | 204 |
//! | `GET /blossom/reports?limit=` | `{"reports": [...]}`, newest first |
//! | `POST /blossom/gc` | `{"next": seconds or null}`, the time of the next sweep |

use bytes::Bytes;
use relay_site::nip98::{self, Nip98Error, Payload, ServerUrl};
use relay_site::{BlossomRoute, HttpResponse, authorization};
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use super::list::{self, LIMIT_MAX, pubkey, read_limit};
use super::response::Response;
use super::step::{Input, Step};
use super::storing::problem;
use super::{Context, Head, State, Transition};
use crate::blob::Sha256;
use crate::descriptor::Descriptor;
use crate::index::{Command, Outcome};

/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 4 << 10;

/// Longest reason of a ban, in characters.
const REASON_CHARS_MAX: usize = 500;

/// A request of an administrator.
#[derive(Clone, Debug)]
pub(super) enum AdminRequest {
    /// Its event is marked as used.
    MarkEventUsed(Payload),
    /// Its body is read.
    Read(Payload),
    /// The index is asked.
    Ask,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ban {
    reason: String,
}

pub(super) fn begin(context: &Context<'_>, head: &Head) -> Transition {
    if let ServerUrl::Host(host) = context.origin
        && !authorization::is_loopback(host)
    {
        let message = "without `url` in its configuration this relay takes signed requests at 127.0.0.1 and localhost only";
        return Err(Response::error(403, message));
    }
    let request =
        nip98::Request { method: &head.method, origin: context.origin, path_and_query: &head.path_and_query };
    let may = |author: &_| context.keys.admins.contains(author);
    let authorization = head.header("authorization");
    let signed = nip98::check(authorization, &request, context.now, context.verifier, may)?;
    if !is_read(head) && !signed.has_payload() {
        return Err(Response::error(401, "the event has no payload tag, the SHA-256 of the body"));
    }
    Ok((State::Admin(AdminRequest::MarkEventUsed(signed.payload())), Step::MarkEventUsed(signed)))
}

fn is_read(head: &Head) -> bool {
    matches!(&*head.method, "GET" | "HEAD")
}

impl AdminRequest {
    pub(super) fn resume(self, context: &Context<'_>, head: &Head, input: Input) -> Transition {
        match (self, input) {
            (AdminRequest::MarkEventUsed(_), Input::EventUsed(Err(rejection))) => Err(rejection.into()),
            (AdminRequest::MarkEventUsed(_), Input::EventUsed(Ok(()))) if is_read(head) => {
                ask(head, &Bytes::new())
            }
            (AdminRequest::MarkEventUsed(payload), Input::EventUsed(Ok(()))) => {
                Ok((State::Admin(AdminRequest::Read(payload)), Step::Read { bytes_max: BODY_BYTES_MAX }))
            }
            (AdminRequest::Read(mut payload), Input::Body(body)) => {
                payload.update(&body);
                payload.finish()?;
                ask(head, &body)
            }
            (AdminRequest::Ask, Input::Answered(outcome)) => Err(answer(context, outcome)),
            (_, other) => Err(problem(other).into()),
        }
    }
}

impl From<Nip98Error> for Response {
    fn from(rejection: Nip98Error) -> Self {
        HttpResponse::from(rejection).into()
    }
}

fn ask(head: &Head, body: &Bytes) -> Transition {
    use BlossomRoute as R;
    let sha256 = || {
        let param = head.param.as_deref().unwrap_or_default();
        param.parse::<Sha256>().map_err(|error| Response::error(400, &format!("the path {error}")))
    };
    let parameter = |name: &str| {
        form_urlencoded::parse(head.query().as_bytes()).find(|(own, _)| own == name).map(|(_, value)| value)
    };
    let limit = || parameter("limit").map_or(Ok(LIMIT_MAX), |value| read_limit(&value));
    let command = match head.route {
        R::Blobs => {
            let owner = parameter("owner").map(|owner| pubkey(&owner, "owner")).transpose()?;
            list::command(head, owner.map(|owner| owner.to_string()))?
        }
        R::Stat => Command::Stat(sha256()?),
        R::Remove => Command::Delete { sha256: sha256()?, owner: None },
        R::Bans => Command::Bans { limit: limit()? },
        R::Ban => {
            let Ban { reason } = match body.is_empty() {
                true => Ban::default(),
                false => serde_json::from_slice(body)
                    .map_err(|_| Response::error(400, "the body must be JSON: {\"reason\": \"...\"}"))?,
            };
            if reason.chars().count() > REASON_CHARS_MAX {
                return Err(Response::error(400, "reason has more than 500 characters"));
            }
            Command::Ban { sha256: sha256()?, reason }
        }
        R::Unban => Command::Unban(sha256()?),
        R::Reports => Command::Reports { limit: limit()? },
        R::Gc => Command::Sweep,
        _ => return Err(Response::internal()),
    };
    Ok((State::Admin(AdminRequest::Ask), Step::Ask(command)))
}

fn answer(context: &Context<'_>, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Blobs(blobs) => {
            let described = |blob| Descriptor::new(context.base_url, blob);
            Response::json(200, &json!({ "blobs": blobs.iter().map(described).collect::<Vec<_>>() }))
        }
        Outcome::Info(info) => Response::json(200, &info),
        Outcome::Bans(bans) => {
            let ban = |(sha256, reason, at)| json!({ "sha256": sha256, "reason": reason, "at": at });
            Response::json(200, &json!({ "bans": bans.into_iter().map(ban).collect::<Vec<_>>() }))
        }
        Outcome::Reports(reports) => Response::json(200, &json!({ "reports": reports })),
        Outcome::Swept(next) => Response::json(200, &json!({ "next": next })),
        Outcome::Deleted | Outcome::Done => Response::empty(204),
        Outcome::Missing => Response::error(404, "not found"),
        other => problem(Input::Answered(other)).into(),
    }
}
