//! The choice of a client's next message.

use relay_engine::testing::filter_json;
use relay_engine::types::{EventId, Timestamp};

use super::client::{Client, Meaning, Message};
use super::pool::{AUTHORS, Pool, altered, auth, forged, wrong_id};
use crate::choices::Choices;

/// Chooses the next message of `client`.
pub(super) fn next_message(
    client: &mut Client,
    pool: &Pool,
    choices: &mut Choices<'_>,
    now: Timestamp,
) -> Message {
    match choices.below(20) {
        0..=9 => event(pool, choices),
        10..=13 => subscribe(client, pool, choices),
        14 => {
            let live = client.live();
            match live.get(choices.index(live.len().max(1))) {
                Some(id) => {
                    Message { text: format!(r#"["CLOSE","{id}"]"#), meaning: Meaning::Close(id.clone()) }
                }
                None => malformed_message(choices),
            }
        }
        15 => {
            let id = client.new_id("c");
            let filters = filters(pool, choices);
            Message { text: format!(r#"["COUNT","{id}",{}]"#, filters.1), meaning: Meaning::Count(id) }
        }
        16 | 17 => match client.challenge.clone() {
            Some(challenge) => {
                let event = auth(choices.below(u64::from(AUTHORS)) as u8, &challenge, now);
                let meaning = Meaning::Auth(event.id, event.pubkey);
                Message { text: format!(r#"["AUTH",{}]"#, String::from_utf8_lossy(event.json())), meaning }
            }
            None => malformed_message(choices),
        },
        18 => {
            let live = client.live();
            let id = live.get(choices.index(live.len().max(1))).cloned().unwrap_or_else(|| "j".to_owned());
            Message { text: format!(r#"["REQ","{id}",{{"search":1}}]"#), meaning: Meaning::BadReq(id) }
        }
        _ => malformed_message(choices),
    }
}

fn event(pool: &Pool, choices: &mut Choices<'_>) -> Message {
    let event = &pool.events[choices.index(pool.events.len())];
    let good = String::from_utf8_lossy(event.json()).into_owned();
    let (json, id, is_good) = match choices.below(12) {
        0 => (forged(event), event.id, false),
        1 => {
            let reversed: String = event.id.to_string().chars().rev().collect();
            (wrong_id(event), EventId::from_hex(reversed.as_bytes()).expect("reversed hex is hex"), false)
        }
        // The same event with another JSON escape.
        2 => (escaped(&good), event.id, true),
        3 => (altered(event), event.id, false),
        _ => (good, event.id, true),
    };
    Message { text: format!(r#"["EVENT",{json}]"#), meaning: Meaning::Event(id, is_good) }
}

/// The same event with white space, and with its first character of content, a digit, written as an escape.
fn escaped(json: &str) -> String {
    let (head, content) = json.split_once("\"content\":\"").expect("events have a content");
    let (first, rest) = content.split_at(1);
    assert!(first.as_bytes()[0].is_ascii_digit());
    format!("{head}\"content\" : \"\\u003{first}{rest}")
}

fn subscribe(client: &mut Client, pool: &Pool, choices: &mut Choices<'_>) -> Message {
    let live = client.live();
    let waits = |id: &String| client.socket.iter().any(|message| message.text.contains(&format!("\"{id}\"")));
    let replaced = live.get(choices.index(live.len().max(1))).filter(|id| !waits(id)).cloned();
    let id = match replaced {
        Some(id) if choices.one_in(4) => id,
        _ => client.new_id("s"),
    };
    let (filters, text) = filters(pool, choices);
    Message { text: format!(r#"["REQ","{id}",{text}]"#), meaning: Meaning::Req(id, filters) }
}

fn filters(pool: &Pool, choices: &mut Choices<'_>) -> (Vec<relay_engine::types::Filter>, String) {
    let filters = pool.filters[choices.index(pool.filters.len())].clone();
    let texts: Vec<String> = filters.iter().map(|filter| filter_json(filter).to_string()).collect();
    (filters, texts.join(","))
}

fn malformed_message(choices: &mut Choices<'_>) -> Message {
    let texts = [
        "",
        "[",
        r#"["FOO"]"#,
        r#"["FOO","never"]"#,
        r#"["EVENT",{}]"#,
        r#"["CLOSE","never"]"#,
        r#"["NEG-MSG","never","61"]"#,
        r#"["NEG-CLOSE","never"]"#,
        r#"{"a":1}"#,
    ];
    Message { text: texts[choices.index(texts.len())].to_owned(), meaning: Meaning::Untracked }
}
