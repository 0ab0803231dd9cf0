//! Generated events are valid, the same for the same seed, and as calibrated.

use std::collections::{HashMap, HashSet};

use relay_bench::generate::Options;
use relay_bench::hex;
use secp256k1::{XOnlyPublicKey, schnorr};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn small() -> Options {
    Options { count: 3_000, ..Options::default() }
}

fn parse(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_id_and_signature_is_valid() {
    for event in parse(&(Options { count: 600, ..small() }).events(2)) {
        let hashed =
            json!([0, event["pubkey"], event["created_at"], event["kind"], event["tags"], event["content"]]);
        let id: [u8; 32] = Sha256::digest(hashed.to_string()).into();
        assert_eq!(event["id"].as_str(), Some(hex::encode(&id).as_str()), "{event}");
        let pubkey = hex::decode32(event["pubkey"].as_str().unwrap().as_bytes()).unwrap();
        let sig = event["sig"].as_str().unwrap().as_bytes();
        let half = |text: &[u8]| hex::decode32(text).unwrap();
        let sig = [half(&sig[..64]), half(&sig[64..])].concat();
        let sig = schnorr::Signature::from_byte_array(sig.try_into().unwrap());
        let pubkey = XOnlyPublicKey::from_byte_array(pubkey).unwrap();
        assert!(schnorr::verify(&sig, &id, &pubkey).is_ok(), "{event}");
    }
}

#[test]
fn lines_are_canonical() {
    for line in (Options { count: 600, ..small() }).events(1) {
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| event[name].to_string();
        let [id, pubkey, created_at, kind, tags, content, sig] =
            ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"].map(text);
        let canonical = format!(
            r#"{{"id":{id},"pubkey":{pubkey},"created_at":{created_at},"kind":{kind},"tags":{tags},"content":{content},"sig":{sig}}}"#
        );
        assert_eq!(line, canonical);
    }
}

#[test]
fn one_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let options = Options { count: 400, ..small() };
    let lines = options.events(1);
    assert_eq!(lines, options.events(3));
    let mut written = Vec::new();
    assert_eq!(options.write(2, &mut written).unwrap(), written.len() as u64);
    assert_eq!(written, (lines.join("\n") + "\n").as_bytes());
    // Recorded figures name a seed, so a change of the generator must be noticed.
    assert_eq!(
        hex::encode(&Sha256::digest(&written)),
        "eca75496a03348e024095ff2b06daff0688548c14638442a79ea5d3ac46a46ea"
    );

    assert_ne!(lines, Options { seed: 2, ..options.clone() }.events(1));
    let other_stream = Options { sequence: 1, ..options.clone() }.events(1);
    assert!(lines.iter().all(|line| !other_stream.contains(line)));
    let authors = |lines: &[String]| -> HashSet<String> {
        parse(lines).iter().map(|event| event["pubkey"].to_string()).collect()
    };
    assert!(authors(&other_stream).intersection(&authors(&lines)).count() > 50);
}

#[test]
fn kinds_sizes_and_times_are_as_calibrated() {
    let options = Options { count: 20_000, ..small() };
    let lines = options.events(2);
    let mean = lines.iter().map(String::len).sum::<usize>() / lines.len();
    assert!((640..720).contains(&mean), "{mean} bytes on average");

    let events = parse(&lines);
    let mut kinds: HashMap<u64, usize> = HashMap::new();
    for event in &events {
        *kinds.entry(event["kind"].as_u64().unwrap()).or_default() += 1;
        let age = options.now - event["created_at"].as_u64().unwrap();
        assert!(age <= options.days * 86_400, "{age}");
    }
    let wanted = [(1, 60), (7, 25), (6, 5), (0, 4), (9735, 2), (30023, 2), (10002, 1), (3, 1)];
    for (kind, percent) in wanted {
        let permille = kinds[&kind] * 1000 / events.len();
        assert!(permille.abs_diff(percent * 10) <= 12, "kind {kind}: {permille} in a thousand");
    }
    assert_eq!(kinds.len(), wanted.len());

    // Half of the events by the busiest 2.5% of 2,000 authors: Zipf.
    let mut by_author: HashMap<String, usize> = HashMap::new();
    events.iter().for_each(|event| *by_author.entry(event["pubkey"].to_string()).or_default() += 1);
    let mut counts: Vec<usize> = by_author.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let busiest: usize = counts[..50].iter().sum();
    assert!((45..65).contains(&(busiest * 100 / events.len())), "{busiest}");
    assert!(counts.len() > 1_500, "{} authors", counts.len());
}

#[test]
fn references_point_at_earlier_notes_of_the_file() {
    let mut notes = HashSet::new();
    let mut answers = 0;
    for event in parse(&small().events(2)) {
        let kind = event["kind"].as_u64().unwrap();
        for tag in event["tags"].as_array().unwrap() {
            if tag[0] == "e" {
                assert!(notes.contains(tag[1].as_str().unwrap()), "{event}");
                answers += usize::from(kind == 1);
            }
        }
        if kind == 1 {
            notes.insert(event["id"].as_str().unwrap().to_owned());
        }
        let d_tags = event["tags"].as_array().unwrap().iter().filter(|tag| tag[0] == "d").count();
        assert_eq!(d_tags, usize::from(kind == 30023));
    }
    assert!((600..1_600).contains(&answers), "{answers}");
}

#[test]
fn a_stream_of_no_days_is_the_last_minute_in_order() {
    let options = Options { days: 0, count: 500, ..Options::default() };
    let times: Vec<u64> =
        parse(&options.events(1)).iter().map(|event| event["created_at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
    assert_eq!((times[0], times[499]), (options.now - 59, options.now));
    // So many in a minute would contain duplicates if they were not drawn again.
    let options = Options { days: 0, count: 6_000, ..Options::default() };
    let ids: HashSet<String> =
        parse(&options.events(2)).iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 6_000);
}
