//! The admission fee as a feature: the page on which it is paid. Who is a member is decided by the engine
//! ([`relay_engine::policy::Admission`]); an agent of the relay sells the membership, so invoices and payments are that agent's.

use relay_engine::policy::{Admission, Policy};
use relay_engine::types::KIND_MEMBERSHIP_REQUEST;

use crate::Info;
use crate::feature::Feature;
use crate::http_response::HttpResponse;
use crate::nip11::RelayDescription;
use crate::page::{
    FORM_STYLE, PAYMENT_SCRIPT, PAYMENT_SECTION, STYLE, escape, fill_in, grouped, script_policy,
};
use crate::route::{Bounds, Endpoint, HeaderCondition, Route};

const TEMPLATE: &str = include_str!("join.html");
const SCRIPT: &str = include_str!("join.js");

pub(crate) const FEATURE: Feature =
    Feature { endpoints: ENDPOINTS, nips: |_| Vec::new(), settings: &[], section };

const PAGE: Endpoint = Endpoint {
    method: "GET",
    path: "/join",
    header: HeaderCondition::Anything,
    route: Route::Join,
    any_origin: false,
    bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 60 },
};

const ENDPOINTS: &[Endpoint] = &[PAGE];

/// The admission, if becoming a member costs a fee.
pub fn paid_admission(policy: &Policy) -> Option<&Admission> {
    policy.admission.as_ref().filter(|admission| admission.msat > 0)
}

/// Where nothing else is configured, the fee is paid on the relay's own page.
pub fn fill_payments_url(policy: &mut Policy, url: Option<&str>) {
    if let Some(admission) = policy.admission.as_mut().filter(|admission| admission.msat > 0)
        && admission.payments_url.is_none()
    {
        admission.payments_url = url.and_then(|url| crate::nip11::own_page(url, "join"));
    }
}

/// Checks the values.
///
/// # Errors
/// The setting, and what is wrong with it.
pub fn check(policy: &Policy, info: &Info, has_agents: bool) -> Result<(), (&'static str, String)> {
    let Some(admission) = &policy.admission else { return Ok(()) };
    if info.own_pubkey.as_ref().is_some_and(|own| *own != admission.pubkey.to_string()) {
        return Err(("info.self", "is another key than policy.admission.pubkey".to_owned()));
    }
    if let Some(url) = &admission.payments_url {
        let is_page = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_page {
            return Err(("policy.admission.payments_url", "must be an http:// or https:// URL".to_owned()));
        }
    } else if admission.msat > 0 && !has_agents {
        let message = "nobody sells memberships: set agents.enabled, or policy.admission.payments_url to a page that sells them";
        return Err(("policy.admission.msat", message.to_owned()));
    }
    Ok(())
}

/// The page on which the fee is paid.
pub fn respond(relay: &RelayDescription<'_>) -> HttpResponse {
    match paid_admission(relay.policy) {
        None => HttpResponse::error(404, "not found"),
        Some(admission) => page(relay, admission),
    }
}

fn page(relay: &RelayDescription<'_>, admission: &Admission) -> HttpResponse {
    let script = format!("{PAYMENT_SCRIPT}{SCRIPT}");
    let policy = script_policy(&script);
    let fill: [(&str, String); 9] = [
        ("{{style}}", format!("{STYLE}{FORM_STYLE}")),
        ("{{script}}", script),
        ("{{payment}}", PAYMENT_SECTION.to_owned()),
        ("{{icon}}", escape(relay.info.icon.as_deref().unwrap_or("/icon.svg"))),
        ("{{name}}", escape(&relay.info.name)),
        ("{{fee}}", sats(admission.msat)),
        ("{{pubkey}}", admission.pubkey.to_string()),
        ("{{kind}}", KIND_MEMBERSHIP_REQUEST.to_string()),
        ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    HttpResponse::new(200, "text/html; charset=utf-8", fill_in(TEMPLATE, &fill))
        .with("content-security-policy", policy)
}

/// An amount for people.
pub(crate) fn sats(msat: u64) -> String {
    match (msat / 1_000, msat % 1_000) {
        (sats, 0) => format!("{} sats", grouped(sats)),
        (sats, rest) => format!("{}.{rest:03} sats", grouped(sats)),
    }
}

fn section(relay: &RelayDescription<'_>) -> String {
    let Some(admission) = &relay.policy.admission else { return String::new() };
    let members = "<h2>Members</h2>\n<p>This relay takes events of its members; anybody may read.";
    let fee = sats(admission.msat);
    match &admission.payments_url {
        _ if admission.msat == 0 => format!("{members}</p>\n"),
        Some(url) => format!("{members} <a href=\"{}\">Become a member</a> for {fee}.</p>\n", escape(url)),
        None => format!("{members} <a href=\"/join\">Become a member</a> for {fee}.</p>\n"),
    }
}

#[cfg(test)]
mod tests {
    use relay_engine::types::{Limits, PubKey};

    use super::*;

    fn check(policy: &Policy, test: impl FnOnce(&RelayDescription<'_>)) {
        let (info, limits) = (Info { name: "<b>".into(), ..Info::default() }, Limits::default());
        test(&RelayDescription {
            info: &info,
            limits: &limits,
            policy,
            url: Some("wss://relay.example"),
            has_agents: true,
            has_market: false,
            blossom: None,
        });
    }

    fn policy(msat: u64) -> Policy {
        let admission = Admission { pubkey: PubKey([7; 32]), msat, payments_url: None };
        Policy { admission: Some(admission), ..Policy::default() }
    }

    fn body(response: &HttpResponse) -> String {
        String::from_utf8_lossy(&response.body).into_owned()
    }

    #[test]
    fn the_page_names_the_fee_and_runs_its_own_script_only() {
        assert!(TEMPLATE.contains("<script>{{script}}</script>"));
        check(&policy(21_000_000), |relay| {
            let response = respond(relay);
            let page = body(&response);
            assert!(page.contains("21,000 sats") && page.contains("&lt;b&gt;"), "{page}");
            assert!(page.contains(&"07".repeat(32)) && !page.contains("{{"), "{page}");
            let allowed =
                response.headers.iter().find(|(name, _)| *name == "content-security-policy").unwrap();
            let (_, script) = page.split_once("<script>").unwrap();
            let (script, _) = script.split_once("</script>").unwrap();
            assert_eq!(allowed.1, script_policy(script));
            assert!(relay.page("").contains("<a href=\"/join\">Become a member</a> for 21,000 sats"));
        });
        check(&policy(1_500), |relay| assert!(body(&respond(relay)).contains("1.500 sats")));
    }

    #[test]
    fn without_a_fee_there_is_no_page() {
        for policy in [Policy::default(), policy(0)] {
            check(&policy, |relay| {
                assert_eq!(respond(relay).status, 404);
                assert_eq!(
                    relay.page("").contains("takes events of its members"),
                    policy.admission.is_some()
                );
            });
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let check = |msat, own: Option<String>, payments_url: Option<&str>, has_agents| {
            let mut policy = policy(msat);
            policy.admission.as_mut().unwrap().payments_url = payments_url.map(str::to_owned);
            let info = Info { own_pubkey: own, ..Info::default() };
            super::check(&policy, &info, has_agents).err().map(|(key, _)| key)
        };
        assert_eq!(check(1_000, None, None, true), None);
        assert_eq!(check(1_000, Some("07".repeat(32)), None, true), None);
        assert_eq!(check(1_000, Some("08".repeat(32)), None, true), Some("info.self"));
        assert_eq!(check(1_000, None, None, false), Some("policy.admission.msat"));
        assert_eq!(check(0, None, None, false), None);
        assert_eq!(check(1_000, None, Some("https://pay.example"), false), None);
        assert_eq!(check(1_000, None, Some("pay.example"), true), Some("policy.admission.payments_url"));
        assert!(super::check(&Policy::default(), &Info::default(), false).is_ok());
    }

    #[test]
    fn the_relays_own_page_is_the_default() {
        let filled = |msat, own: Option<&str>, url| {
            let mut policy = policy(msat);
            policy.admission.as_mut().unwrap().payments_url = own.map(str::to_owned);
            fill_payments_url(&mut policy, url);
            policy.admission.unwrap().payments_url
        };
        let url = Some("wss://relay.example/");
        assert_eq!(filled(1_000, None, url).as_deref(), Some("https://relay.example/join"));
        assert_eq!(filled(1_000, Some("https://a.example"), url).as_deref(), Some("https://a.example"));
        assert_eq!(filled(1_000, None, None), None);
        assert_eq!(filled(0, None, url), None);
    }
}
