//! What a client says next.

use relay_engine::testing::filter_json;
use relay_engine::types::{EventId, Timestamp};

use super::client::{Client, Meaning, Message};
use super::pool::{AUTHORS, Pool, auth, forged, misnamed, rewritten};
use crate::chance::Chance;

/// Chooses the next message of `client`.
pub(super) fn speak(client: &mut Client, pool: &Pool, chance: &mut Chance<'_>, now: Timestamp) -> Message {
    match chance.below(20) {
        0..=9 => event(pool, chance),
        10..=13 => subscribe(client, pool, chance),
        14 => {
            let live = client.live();
            match live.get(chance.place(live.len().max(1))) {
                Some(id) => {
                    Message { text: format!(r#"["CLOSE","{id}"]"#), meaning: Meaning::Close(id.clone()) }
                }
                None => junk(chance),
            }
        }
        15 => {
            let id = client.name("c");
            let filters = filters(pool, chance);
            Message { text: format!(r#"["COUNT","{id}",{}]"#, filters.1), meaning: Meaning::Count(id) }
        }
        16 | 17 => match client.challenge.clone() {
            Some(challenge) => {
                let event = auth(chance.below(u64::from(AUTHORS)) as u8, &challenge, now);
                let meaning = Meaning::Auth(event.id, event.pubkey);
                Message { text: format!(r#"["AUTH",{}]"#, String::from_utf8_lossy(event.json())), meaning }
            }
            None => junk(chance),
        },
        18 => {
            let live = client.live();
            let id = live.get(chance.place(live.len().max(1))).cloned().unwrap_or_else(|| "j".to_owned());
            Message { text: format!(r#"["REQ","{id}",{{"search":1}}]"#), meaning: Meaning::BadReq(id) }
        }
        _ => junk(chance),
    }
}

fn event(pool: &Pool, chance: &mut Chance<'_>) -> Message {
    let event = &pool.events[chance.place(pool.events.len())];
    let good = String::from_utf8_lossy(event.json()).into_owned();
    let (json, id, is_good) = match chance.below(12) {
        0 => (forged(event), event.id, false),
        1 => {
            let reversed: String = event.id.to_string().chars().rev().collect();
            (misnamed(event), EventId::from_hex(reversed.as_bytes()).expect("reversed hex is hex"), false)
        }
        // The same event, escaped in another way.
        2 => (escaped(&good), event.id, true),
        3 => (rewritten(event), event.id, false),
        _ => (good, event.id, true),
    };
    Message { text: format!(r#"["EVENT",{json}]"#), meaning: Meaning::Event(id, is_good) }
}

/// The same event with white space, and with an escape that nobody needs: contents start with a digit.
fn escaped(json: &str) -> String {
    let (head, content) = json.split_once("\"content\":\"").expect("events have a content");
    let (first, rest) = content.split_at(1);
    assert!(first.as_bytes()[0].is_ascii_digit());
    format!("{head}\"content\" : \"\\u003{first}{rest}")
}

fn subscribe(client: &mut Client, pool: &Pool, chance: &mut Chance<'_>) -> Message {
    let live = client.live();
    let waits = |id: &String| client.socket.iter().any(|message| message.text.contains(&format!("\"{id}\"")));
    let replaced = live.get(chance.place(live.len().max(1))).filter(|id| !waits(id)).cloned();
    let id = match replaced {
        Some(id) if chance.one_in(4) => id,
        _ => client.name("s"),
    };
    let (filters, text) = filters(pool, chance);
    Message { text: format!(r#"["REQ","{id}",{text}]"#), meaning: Meaning::Req(id, filters) }
}

fn filters(pool: &Pool, chance: &mut Chance<'_>) -> (Vec<relay_engine::types::Filter>, String) {
    let filters = pool.filters[chance.place(pool.filters.len())].clone();
    let texts: Vec<String> = filters.iter().map(|filter| filter_json(filter).to_string()).collect();
    (filters, texts.join(","))
}

fn junk(chance: &mut Chance<'_>) -> Message {
    let texts = [
        "",
        "[",
        r#"["FOO"]"#,
        r#"["FOO","never"]"#,
        r#"["EVENT",{}]"#,
        r#"["CLOSE","never"]"#,
        r#"["NEG-OPEN","never",{},"61"]"#,
        r#"["NEG-CLOSE","never"]"#,
        r#"{"a":1}"#,
    ];
    Message { text: texts[chance.place(texts.len())].to_owned(), meaning: Meaning::Junk }
}
