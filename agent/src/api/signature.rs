//! Who has signed a request (NIP-98), and what that takes.

use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Verifier;
use relay_site::authorization::is_loopback;
use relay_site::nip98::{self, ServerUrl, VerifiedRequest};
use relay_site::{AgentRoute, HttpResponse};

use super::access::{Caller, needs_signature};

/// Checks the signature of a request: if its endpoint needs one, or if it has one. Other schemes of `Authorization` are a
/// proxy's business. `None`: anybody may send it.
///
/// The caller must check that the event is not used a second time, and pass the body to [`VerifiedRequest::payload`].
///
/// # Errors
/// The response. A request that changes something must name the hash of its body, and one whose relay has no configured URL
/// must be sent to this machine's own address: by any other name it may have been signed for another relay, which sends
/// it on.
pub fn signature(
    route: AgentRoute,
    authorization: Option<&str>,
    request: &nip98::Request<'_>,
    now: Timestamp,
    verifier: &dyn Verifier,
) -> Result<Option<VerifiedRequest>, HttpResponse> {
    let authorization = authorization.filter(|value| nip98::is_nostr(value));
    if authorization.is_none() && !needs_signature(route) {
        return Ok(None);
    }
    if let ServerUrl::Host(host) = request.origin
        && !is_loopback(host)
    {
        let message = "without `url` in its configuration this relay takes signed requests at 127.0.0.1 and localhost only";
        return Err(HttpResponse::error(403, message));
    }
    let signed = nip98::check(authorization, request, now, verifier, |_| true)?;
    if !matches!(request.method, "GET" | "HEAD") && !signed.has_payload() {
        return Err(HttpResponse::error(401, "the event has no payload tag, the SHA-256 of the body"));
    }
    Ok(Some(signed))
}

/// Whether `caller` may deploy agents: administrators, and the configured `deployers`.
pub fn may_deploy(caller: Caller, deployers: &[PubKey]) -> bool {
    caller.is_admin() || caller.signer().is_some_and(|key| deployers.contains(&key))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use relay_engine::testing::signing::{event, key};
    use relay_engine::verify::Libsecp256k1;

    use super::*;

    const NOW: Timestamp = 1_800_000_000;

    /// A token for `http://{host}/agents`.
    fn token(host: &str, method: &str, payload: bool) -> String {
        let mut draft = event(&key(1)).kind(nip98::KIND).at(NOW);
        draft = draft.tag(["u", &format!("http://{host}/agents")]).tag(["method", method]);
        if payload {
            draft = draft.tag(["payload", &"0".repeat(64)]);
        }
        format!("Nostr {}", BASE64_STANDARD.encode(draft.sign().json()))
    }

    #[test]
    fn what_is_signed_and_what_must_be() {
        use AgentRoute as R;
        let local = ServerUrl::Host("127.0.0.1:7777");
        let url = ServerUrl::Url("ws://relay.example");
        let get = |host: &str| Some(token(host, "GET", false));
        let post = |payload| Some(token("127.0.0.1:7777", "POST", payload));
        let cases = [
            (R::List, "GET", local, None, Ok(false)),
            (R::List, "GET", local, Some("Basic dTpw".to_owned()), Ok(false)),
            (R::List, "GET", local, get("127.0.0.1:7777"), Ok(true)),
            (R::List, "GET", local, Some("Nostr bm8=".to_owned()), Err(401)),
            (R::Logs, "GET", local, None, Err(401)),
            (R::Logs, "GET", local, Some("Basic dTpw".to_owned()), Err(401)),
            (R::Logs, "GET", url, get("relay.example"), Ok(true)),
            (R::Logs, "GET", ServerUrl::Host("relay.example"), get("relay.example"), Err(403)),
            (R::Logs, "GET", ServerUrl::Host("localhost"), get("localhost"), Ok(true)),
            (R::Logs, "GET", ServerUrl::Host("[::1]:80"), get("[::1]:80"), Ok(true)),
            // Its host is the part after the `@`.
            (R::Logs, "GET", ServerUrl::Host("localhost@relay.example"), get("relay.example"), Err(403)),
            (R::Deploy, "POST", local, post(true), Ok(true)),
            (R::Deploy, "POST", local, post(false), Err(401)),
        ];
        for (route, method, origin, token, want) in cases {
            let request = nip98::Request { method, origin, path_and_query: "/agents" };
            let is = signature(route, token.as_deref(), &request, NOW, &Libsecp256k1);
            let is = is.map(|signed| signed.is_some()).map_err(|answer| answer.status);
            assert_eq!(is, want, "{route:?} {method} {origin:?} {token:?}");
        }
    }
}
