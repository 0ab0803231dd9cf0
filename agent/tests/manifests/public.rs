//! What everybody sees of a manifest.

use relay_engine::types::PubKey;
use serde_json::json;

use super::{HEX, NPUB, parse, set, whole};

#[test]
fn the_public_form_has_what_customers_need() {
    let manifest = parse(&whole()).unwrap_or_else(|error| panic!("{error}"));
    let public = manifest.public_json(&HEX.parse().expect("a key"));
    assert_eq!(public["npub"], NPUB);
    assert_eq!(public["pubkey"], HEX);
    assert_eq!(public["name"], "all");
    assert_eq!(public["owner"], HEX);
    assert_eq!(public["access"]["restricted"], true);
    assert_eq!(public["limits"]["timeout_s"], 3);
    assert_eq!(
        public["handlers"][0],
        json!({
            "kind": 5050,
            "executor": "openai_http",
            "inputs": ["text", "event", "job", "url"],
            "inputs_min": 1,
            "outputs": ["text/plain", "application/json; charset=utf-8"],
            "params": {
                "top-k": {"required": true, "values": ["1", "2"]},
                "lang": {"required": false, "values": ["en", "de"], "default": "en"},
            },
            "price": {"model": "free"},
        })
    );
    assert_eq!(
        public["nip90Params"],
        json!({
            "top-k": {"required": true, "values": ["1", "2"]},
            "lang": {"required": false, "values": ["en", "de"]},
        })
    );
}

#[test]
fn the_public_form_has_no_secret_names_addresses_prompts_or_lists_of_people() {
    let (denied, allowed, operator) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let on_curve = |key: &str| relay_agent::identity::parse_pubkey(key).is_some();
    let keys: Vec<_> = [denied, allowed, operator].into_iter().filter(|key| on_curve(key)).collect();
    assert!(!keys.is_empty());
    let mut manifest = whole();
    set(&mut manifest, "pubkey", serde_json::Value::Null);
    for (path, key) in ["access.deny", "access.allow", "operators"].into_iter().zip(keys.iter().cycle()) {
        set(&mut manifest, path, json!([key]));
    }
    let manifest = parse(&manifest).unwrap_or_else(|error| panic!("{error}"));
    let public = manifest.public_json(&PubKey([7; 32])).to_string();
    let hidden =
        ["AGENT_API_KEY", "AGENT_MCP", "api.example.com", "127.0.0.1", "Be brief.", "hello", "derived"];
    for hidden in hidden.into_iter().chain(keys.iter().map(String::as_str)) {
        assert!(!public.contains(hidden), "{hidden}: {public}");
    }
}

#[test]
fn parameters_of_several_handlers() {
    let param = |json: serde_json::Value| json!({"executor": "echo", "params": {"lang": json}});
    let of = |handlers: Vec<serde_json::Value>| {
        let handlers: Vec<_> = (5_000..)
            .zip(handlers)
            .map(|(kind, mut handler)| {
                handler["kind"] = json!(kind);
                handler
            })
            .collect();
        let manifest = parse(&json!({"name": "a", "handlers": handlers})).expect("valid");
        serde_json::to_value(manifest.nip90_params()).expect("JSON")
    };
    let (en, de) =
        (param(json!({"values": ["en"]})), param(json!({"values": ["de", "en"], "required": true})));
    let any = param(json!({}));
    assert_eq!(of(vec![en.clone(), de.clone()]), json!({"lang": {"required": true, "values": ["en", "de"]}}));
    assert_eq!(of(vec![en.clone(), any.clone(), de]), json!({"lang": {"required": true, "values": []}}));
    assert_eq!(of(vec![any, en]), json!({"lang": {"required": false, "values": []}}));
}
