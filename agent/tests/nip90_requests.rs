//! Reading job requests: a row for each line of the rules, and for each malformed shape that clients send.

mod nip90_kit;

use nip90_kit::{agent, content_of, customer, event, keys, owned, request};
use relay_agent::cipher::{Cipher, encrypt};
use relay_agent::job::{InputKind, JobRequest};
use relay_agent::nip90::{
    INPUTS_MAX, Incoming, PARAMS_BYTES_MAX, PARAMS_MAX, RequestError, cancelled, is_same_param, named_keys,
    parse, public_relay, read_relays, text_of,
};
use relay_engine::types::Event;
use relay_engine::wire::parse_event;

/// What a request asks for, in one line.
fn shown(request: &JobRequest) -> String {
    let mut parts = Vec::new();
    for input in &request.inputs {
        let kind = match input.kind {
            InputKind::Text => "text",
            InputKind::Event => "event",
            InputKind::Job => "job",
            InputKind::Url => "url",
        };
        let relay = input.relay.as_ref().map(|relay| format!(" at {relay}")).unwrap_or_default();
        let marker = input.marker.as_ref().map(|marker| format!(" as {marker}")).unwrap_or_default();
        parts.push(format!("{kind} {:?}{relay}{marker}", input.data));
    }
    parts.extend(request.params.iter().map(|(key, values)| format!("{key}={}", values.join(","))));
    parts.extend(request.output.iter().map(|output| format!("output {output}")));
    parts.extend(request.bid_msat.map(|bid| format!("bid {bid}")));
    parts.extend(request.relays.iter().map(|relay| format!("to {relay}")));
    parts.join("; ")
}

#[track_caller]
fn check_tags(tags: &[&[&str]], expected: &str) {
    let read = parse(&request(tags), &agent()).unwrap_or_else(|error| panic!("{tags:?}: {error:?}"));
    assert_eq!(shown(&read), expected, "{tags:?}");
    assert!(read.is_addressed && read.cipher.is_none());
}

const ID: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

#[test]
fn requests_are_read_as_clients_write_them() {
    let rows: &[(&[&[&str]], &str)] = &[
        // No input at all is the norm; the other tags of real requests say nothing.
        (&[], ""),
        (&[&["alt", "NIP90 Content Discovery Request"], &["t", "bitcoin"], &["client", "x"]], ""),
        // `i`: data, type, relay, marker.
        (&[&["i", "Hi", "text"]], "text \"Hi\""),
        (&[&["i", " Hi\n", "text", "", "prompt"]], "text \" Hi\\n\" as prompt"),
        (&[&["i", ID, "event", "wss://nos.lol/", "root"]], &format!("event {ID:?} at wss://nos.lol as root")),
        (&[&["i", ID, "job"]], &format!("job {ID:?}")),
        (&[&["i", &ID.to_uppercase(), "event"]], &format!("event {ID:?}")),
        (&[&["i", "https://a.example/x?y", "url"]], "url \"https://a.example/x?y\""),
        (&[&["i", "one", "text"], &["i", "two", "text"]], "text \"one\"; text \"two\""),
        // No type, an empty one, and `prompt` in its place are text.
        (&[&["i", "Hi"]], "text \"Hi\""),
        (&[&["i", "Hi", ""]], "text \"Hi\""),
        (&[&["i", "Hi", "", "", "system"]], "text \"Hi\" as system"),
        (&[&["i", "Hi", "prompt"]], "text \"Hi\" as prompt"),
        (&[&["i", ""]], "text \"\""),
        (&[&["i"]], ""),
        // A relay to read from that is not public is as good as none.
        (&[&["i", ID, "event", "ws://127.0.0.1:7777"]], &format!("event {ID:?}")),
        // Type and data exchanged, under another name.
        (&[&["input", "text", "Hi"]], "text \"Hi\""),
        (&[&["input", "url", "https://a.example"]], "url \"https://a.example\""),
        // `param`: one key, one or more values, may repeat.
        (&[&["param", "model", "m"]], "model=m"),
        (&[&["param", "user", "a", "b"], &["param", "user", "c"]], "user=a,b; user=c"),
        (&[&["param", "top-k", "100_000"]], "top-k=100_000"),
        (&[&["param", "flag"], &["param"]], "flag="),
        // `output`: the first of the first.
        (&[&["output", "text/plain"]], "output text/plain"),
        (&[&["output", "text/markdown", "text/plain"], &["output", "x"]], "output text/markdown"),
        (&[&["output", " "], &["output"]], ""),
        // `bid`: the first value; what is no number is none.
        (&[&["bid", "5000"]], "bid 5000"),
        (&[&["bid", "5000", "10000"]], "bid 5000"),
        (&[&["bid", "100_000"]], "bid 100000"),
        (&[&["bid", "0"]], "bid 0"),
        (&[&["bid", "free"], &["bid", "7"]], ""),
        (&[&["bid", "-5"]], ""),
        (&[&["bid", "1.5"]], ""),
        (&[&["bid", "_"]], ""),
        (&[&["bid", "+5"]], ""),
        (&[&["bid", "18446744073709551616"]], ""),
        (&[&["bid"]], ""),
        // `relays`, `relay`, and no name at all.
        (&[&["relays", "wss://nos.lol", "wss://a.example/r"]], "to wss://nos.lol; to wss://a.example/r"),
        (&[&["relay", "wss://nos.lol"]], "to wss://nos.lol"),
        (&[&["wss://nos.lol", "wss://a.example"]], "to wss://nos.lol; to wss://a.example"),
        (&[&["relays", "wss://nos.lol", "wss://nos.lol/", "WSS://NOS.LOL:443"]], "to wss://nos.lol"),
        (&[&["relays", "ws://nos.lol", "wss://localhost", "https://a.example", "", "nonsense"]], ""),
        (&[&["relays"]], ""),
        // Tags that are nothing.
        (&[&["#j", "text-to-text"], &["amount", "1000", "me@wallet.example"], &["j"], &[""]], ""),
    ];
    for (tags, expected) in rows {
        check_tags(tags, expected);
    }
}

#[test]
fn at_most_eight_relays_are_used() {
    let urls: Vec<String> = (0..20).map(|number| format!("wss://relay{number}.example")).collect();
    let mut tag = vec!["relays"];
    tag.extend(urls.iter().map(String::as_str));
    let expected = urls[..8].iter().map(|url| format!("to {url}")).collect::<Vec<_>>().join("; ");
    check_tags(&[&tag], &expected);
}

#[test]
fn a_flood_of_relays_is_not_searched() {
    let relays = |bad: usize| {
        let mut tag = vec!["relays"];
        tag.extend(vec!["wss://localhost"; bad]);
        let tags: &[&[&str]] = &[&tag, &["relays", "wss://nos.lol"]];
        parse(&request(tags), &agent()).unwrap().relays
    };
    assert_eq!(relays(63), ["wss://nos.lol"]);
    assert_eq!(relays(64), [""; 0]);
    assert_eq!(relays(50_000), [""; 0]);
}

#[test]
fn only_public_wss_relays_are_used() {
    let rows = [
        ("wss://relay.example", Some("wss://relay.example")),
        (" wss://Relay.Example/ ", Some("wss://relay.example")),
        ("wss://relay.example.", Some("wss://relay.example")),
        ("wss://relay.example:4848/a/", Some("wss://relay.example:4848/a/")),
        ("wss://relay.example/#x", Some("wss://relay.example")),
        ("wss://relay.example/?a=1", Some("wss://relay.example/?a=1")),
        ("wss://bücher.example", Some("wss://xn--bcher-kva.example")),
        ("wss://8.8.8.8", Some("wss://8.8.8.8")),
        ("wss://[2606:4700::1111]", Some("wss://[2606:4700::1111]")),
        ("ws://relay.example", None),
        ("https://relay.example", None),
        ("relay.example", None),
        ("wss://user@relay.example", None),
        ("wss://user:pass@relay.example", None),
        ("wss://localhost", None),
        ("wss://a.localhost", None),
        ("wss://LOCALHOST.", None),
        ("wss://relay", None),
        ("wss://printer.local", None),
        ("wss://db.internal", None),
        ("wss://nas.home.arpa", None),
        ("wss://abc.onion", None),
        ("wss://127.0.0.1", None),
        ("wss://2130706433", None),
        ("wss://0x7f.1", None),
        ("wss://10.0.0.1", None),
        ("wss://172.31.0.1", None),
        ("wss://192.168.1.1", None),
        ("wss://169.254.169.254", None),
        ("wss://100.64.0.1", None),
        ("wss://192.0.0.1", None),
        ("wss://198.18.0.1", None),
        ("wss://203.0.113.1", None),
        ("wss://0.0.0.0", None),
        ("wss://224.0.0.1", None),
        ("wss://255.255.255.255", None),
        ("wss://[::1]", None),
        ("wss://[::]", None),
        ("wss://[::ffff:8.8.8.8]", Some("wss://[::ffff:808:808]")),
        ("wss://[::ffff:127.0.0.1]", None),
        ("wss://[64:ff9b::7f00:1]", None),
        ("wss://[2002:7f00:1::]", None),
        ("wss://[2001::1]", None),
        ("wss://[2001:db8::1]", None),
        ("wss://[fe80::1]", None),
        ("wss://[fd00::1]", None),
        ("wss://[ff02::1]", None),
    ];
    for (url, expected) in rows {
        assert_eq!(public_relay(url).as_deref(), expected, "{url}");
    }
    assert_eq!(public_relay(&format!("wss://relay.example/{}", "a".repeat(300))), None);
}

#[test]
fn a_request_that_cannot_be_done_as_written_is_answered_in_words() {
    let long = "x".repeat(300);
    let rows: &[(&[&str], &str)] = &[
        (&["i", "Hi", "data"], "input type \"data\" is not known: use text, url, event or job"),
        (&["i", "text", "Hi"], "input type \"Hi\" is not known: use text, url, event or job"),
        (&["i", "Hi", "a\nb"], "input type \"ab…\" is not known: use text, url, event or job"),
        (&["i", "note1xyz", "event"], "input \"note1xyz\" is not an event id in hexadecimal"),
        (&["i", "", "job"], "input \"\" is not an event id in hexadecimal"),
        (&["i", "nonsense", "url"], "input \"nonsense\" is not a URL of at most 2048 bytes"),
        (
            &["i", "file:///etc/passwd", "url"],
            "input \"file:///etc/passwd\" is not a URL of at most 2048 bytes",
        ),
        (&["i", "Hi", "text", "", &long], "an input's marker has more than 256 bytes"),
        (&["input", "Hi"], "inputs are written [\"i\", data, type]"),
        (&["input", "data", "Hi"], "inputs are written [\"i\", data, type]"),
        (&["output", &long], &format!("output \"{}…\" is not a MIME type", "x".repeat(32))),
    ];
    for (tag, message) in rows {
        let error = parse(&request(&[tag]), &agent()).unwrap_err();
        assert_eq!(error.answer(), Some((*message, None)), "{tag:?}");
        // Without our name in it, it is an open job, which is refused silently.
        let open = event(&customer(), 5050, owned(&[tag]), "");
        assert_eq!(parse(&open, &agent()).unwrap_err().answer(), None, "{tag:?}");
    }
}

#[test]
fn numbers_and_sizes_have_limits() {
    let check = |tags: Vec<Vec<String>>, expected: Option<&str>| {
        let tags: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
        let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
        let read = parse(&request(&tags), &agent());
        assert_eq!(read.as_ref().err().and_then(RequestError::answer).map(|(message, _)| message), expected);
    };
    let many =
        |count: usize, tag: &[&str]| vec![tag.iter().map(|field| (*field).to_owned()).collect(); count];
    check(many(INPUTS_MAX, &["i", "x", "text"]), None);
    check(many(INPUTS_MAX + 1, &["i", "x", "text"]), Some("the request has more than 256 inputs"));
    check(many(2_499, &["input", "text", "x"]), Some("the request has more than 256 inputs"));
    check(many(PARAMS_MAX, &["param", "k", "v"]), None);
    check(many(PARAMS_MAX + 1, &["param", "k", "v"]), Some("the request has more than 256 parameters"));
    let params = |bytes: usize| vec![vec!["param".to_owned(), "k".to_owned(), "v".repeat(bytes - 1)]];
    check(params(PARAMS_BYTES_MAX), None);
    check(params(PARAMS_BYTES_MAX + 1), Some("the parameters have more than 65536 bytes"));
    let empty =
        |count: usize| vec![["param", "k"].into_iter().chain(vec![""; count]).map(str::to_owned).collect()];
    check(empty(PARAMS_BYTES_MAX - 1), None);
    check(empty(PARAMS_BYTES_MAX), Some("the parameters have more than 65536 bytes"));
    check(params(1 << 20), Some("the parameters have more than 65536 bytes"));
    // A text may be as long as an event; the manifest has its limit.
    check(vec![vec!["i".to_owned(), "x".repeat(1 << 20), "text".to_owned()]], None);
    check(many(2_499, &["relays", "wss://nos.lol"]), None);
}

#[test]
fn who_is_named_answers() {
    let (agent, other) = (agent(), keys(3));
    let p = |value: String| vec!["p".to_owned(), value];
    let (us, them) = (agent.pubkey().to_string(), other.pubkey().to_string());
    // Tags, and whether the request is addressed; `None`: it is not for us.
    let rows = [
        (vec![], Some(false)),
        (vec![p(us.clone())], Some(true)),
        (vec![p(us.to_uppercase())], Some(true)),
        (vec![p(them.clone())], None),
        (vec![p(them.clone()), p(us.clone())], Some(true)),
        (vec![p(String::new())], Some(false)),
        (vec![vec!["p".to_owned()]], Some(false)),
        (vec![p("npub1xyz".to_owned())], Some(false)),
    ];
    for (tags, expected) in rows {
        let event = event(&customer(), 5050, tags.clone(), "");
        match parse(&event, &agent) {
            Ok(read) => assert_eq!(Some(read.is_addressed), expected, "{tags:?}"),
            Err(error) => {
                assert_eq!((error.clone(), expected), (RequestError::NotForUs, None), "{tags:?}");
                assert_eq!(error.answer(), None);
            }
        }
    }
    let twice = event(&customer(), 5050, vec![p(them.clone()), p(us.clone()), p(them)], "");
    assert_eq!(named_keys(&twice), [other.pubkey(), agent.pubkey()]);
    // Its own events are never answered.
    let own = event(&agent, 5050, vec![p(us)], "");
    assert_eq!(parse(&own, &agent), Err(RequestError::NotForUs));
}

#[test]
fn a_request_keeps_id_author_kind_and_time_of_its_event() {
    let event = request(&[&["i", "Hi", "text"]]);
    let read = parse(&event, &agent()).unwrap();
    assert_eq!(
        (read.id, read.customer, read.kind, read.created_at),
        (event.id, event.pubkey, event.kind, event.created_at)
    );
}

#[test]
fn kinds_say_what_an_event_is() {
    let rows = [
        (4_999, Incoming::Other),
        (5_000, Incoming::Request),
        (5_999, Incoming::Request),
        (6_000, Incoming::Other),
        (7_000, Incoming::Other),
        (7_007, Incoming::Ping),
        (5, Incoming::Cancellation),
        (62, Incoming::Vanish),
        (1, Incoming::Other),
    ];
    for (kind, expected) in rows {
        let event = event(&customer(), kind, Vec::new(), "");
        assert_eq!(Incoming::of(&event), expected, "kind {kind}");
        assert_eq!(parse(&event, &agent()).is_ok(), expected == Incoming::Request, "kind {kind}");
    }
}

#[test]
fn a_cancellation_names_requests_by_their_ids() {
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let tags: &[&[&str]] =
        &[&["e", &one], &["e", "nonsense"], &["k", "5050"], &["e", &two, "wss://nos.lol"], &["e"]];
    let ids = |kind: u16| -> Vec<String> {
        cancelled(&event(&customer(), kind, owned(tags), "")).map(|id| id.to_string()).collect()
    };
    assert_eq!(ids(5), [one.as_str(), two.as_str()]);
    assert_eq!(ids(1), [""; 0]);
}

#[test]
fn keys_of_parameters_are_spelled_with_either_hyphen() {
    for (a, b, expected) in [
        ("top-k", "top_k", true),
        ("top-k", "top-k", true),
        ("a-b_c", "a_b-c", true),
        ("top-k", "top-p", false),
        ("top-k", "topk", false),
        ("Top-k", "top_k", false),
    ] {
        assert_eq!(is_same_param(a, b), expected, "{a} {b}");
    }
}

#[test]
fn answers_go_to_the_relays_that_a_customer_reads() {
    let tags: &[&[&str]] = &[
        &["r", "wss://both.example"],
        &["r", "wss://write.example", "write"],
        &["r", "wss://empty.example", ""],
        &["r", "wss://read.example/", "read"],
        &["r", "ws://plain.example"],
        &["r", "wss://both.example/"],
        &["r"],
    ];
    let list = |kind: u16| read_relays(&event(&customer(), kind, owned(tags), ""));
    assert_eq!(list(10_002), ["wss://both.example", "wss://empty.example", "wss://read.example"]);
    assert_eq!(list(10_050), [""; 0]);
}

#[test]
fn the_text_of_an_event_is_its_content_and_of_a_request_its_inputs() {
    let note = event(&customer(), 1, owned(&[&["i", "no", "text"]]), "A \"note\"\n");
    assert_eq!(text_of(&note), "A \"note\"\n");
    let tags: &[&[&str]] =
        &[&["i", "one", "text"], &["i", ID, "event"], &["i", "bad", "data"], &["i", "two"]];
    let earlier = event(&customer(), 5300, owned(tags), "ciphertext");
    assert_eq!(text_of(&earlier), "one\ntwo");
}

const NONCE: [u8; 32] = [7; 32];
const CIPHERS: [Cipher; 2] = [Cipher::Nip44, Cipher::Nip04];

/// A request with this text encrypted in it.
fn encrypted(cipher: Cipher, text: &str, clear: &[&[&str]]) -> Event {
    let encrypted = encrypt(cipher, &customer(), &agent().pubkey(), text, NONCE).unwrap();
    let mut tags = owned(clear);
    tags.push(vec!["p".to_owned(), agent().pubkey().to_string()]);
    event(&customer(), 5050, tags, &encrypted)
}

#[test]
fn encrypted_requests_are_read_by_their_payload() {
    // Hidden text, clear tags, and what is read.
    let rows: &[(&str, &[&[&str]], &str)] = &[
        // As NDK writes it: everything is hidden.
        (
            r#"[["i","Hi","text"],["param","top-k","5"],["output","text/plain"],["relays","wss://nos.lol"],["bid","9"]]"#,
            &[&["encrypted"]],
            "text \"Hi\"; top-k=5; output text/plain; bid 9; to wss://nos.lol",
        ),
        // As Snort writes it: only inputs and parameters are, and the tag has a value.
        (
            r#"[["i","Hi","text"],["param","a","b"]]"#,
            &[&["encrypted", "1"], &["output", "text/plain"], &["relays", "wss://nos.lol"], &["bid", "9"]],
            "text \"Hi\"; a=b; output text/plain; bid 9; to wss://nos.lol",
        ),
        // Both: hidden ones first.
        (
            r#"[["i","two"],["bid","2"],["output","b"],["relays","wss://b.example"]]"#,
            &[&["i", "one"], &["bid", "1"], &["output", "a"], &["relays", "wss://a.example"], &["encrypted"]],
            "text \"two\"; text \"one\"; output b; bid 2; to wss://b.example; to wss://a.example",
        ),
        // One bare tag, no tags, numbers.
        (r#"["i","Hi","text"]"#, &[&["encrypted"]], "text \"Hi\""),
        (r#"[["i","one"],["i","two"]]"#, &[&["encrypted"]], "text \"one\"; text \"two\""),
        ("[]", &[&["encrypted"]], ""),
        (r#"[["param","max_tokens",512,true,null],[]]"#, &[&["encrypted"]], "max_tokens=512,true,"),
        // A `p` in it does not matter.
        (r#"[["p","0000"],["i","Hi"]]"#, &[&["encrypted"]], "text \"Hi\""),
    ];
    for cipher in CIPHERS {
        for (text, clear, expected) in rows {
            let read = parse(&encrypted(cipher, text, clear), &agent()).unwrap();
            assert_eq!((shown(&read).as_str(), read.cipher), (*expected, Some(cipher)), "{text}");
        }
    }
}

#[test]
fn requests_of_ndk_are_read() {
    let lines = include_str!("data/ndk-requests.jsonl").lines();
    let ciphers = [None, Some(Cipher::Nip44), Some(Cipher::Nip04)];
    for (line, cipher) in lines.zip(ciphers) {
        let read = parse(&parse_event(line.as_bytes()).unwrap().to_event(), &agent()).unwrap();
        assert_eq!(
            shown(&read),
            "text \"Hi\"; top-k=5; output text/plain; bid 1000; to wss://nos.lol",
            "{cipher:?}"
        );
        assert_eq!((read.cipher, read.is_addressed), (cipher, true));
    }
}

#[test]
fn encrypted_nonsense_is_answered_in_words_in_its_own_cipher() {
    let shape = "the encrypted content is not a JSON array of tags";
    let many = format!("[{}]", vec![r#"["t"]"#; 2_501].join(","));
    let rows = [
        ("Hi", shape),
        ("{}", shape),
        (r#"[["i",["Hi"]]]"#, shape),
        (r#"[{"i":"Hi"}]"#, shape),
        (r#"["i",{}]"#, shape),
        (r#"[["i","Hi"]"#, shape),
        (&many, "the encrypted content has more than 2,500 tags"),
        (r#"[["i","Hi","data"]]"#, "input type \"data\" is not known: use text, url, event or job"),
    ];
    for cipher in CIPHERS {
        for (text, message) in rows {
            let error = parse(&encrypted(cipher, text, &[&["encrypted"]]), &agent()).unwrap_err();
            assert_eq!(error.answer(), Some((message, Some(cipher))), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_decrypted_is_answered_in_the_clear() {
    let neither = "the request cannot be decrypted: its content is neither NIP-44, version 2, nor NIP-04";
    let p = agent().pubkey().to_string();
    let tags: &[&[&str]] = &[&["p", &p], &["encrypted"]];
    for content in ["", "Hi", "[[\"i\",\"Hi\"]]", "?iv=", "AAAA?iv=AAAA", "####"] {
        let error = parse(&event(&customer(), 5050, owned(tags), content), &agent()).unwrap_err();
        assert_eq!(error.answer(), Some((neither, None)), "{content}");
    }
    // For another key.
    let encrypted = encrypt(Cipher::Nip44, &customer(), &keys(3).pubkey(), "[]", NONCE).unwrap();
    let error = parse(&event(&customer(), 5050, owned(tags), &encrypted), &agent()).unwrap_err();
    let other = "the request cannot be decrypted: it is encrypted for another key";
    assert_eq!(error.answer(), Some((other, None)));
    // The messages of the agent's errors have nothing of the content in them.
    let secret = encrypt(Cipher::Nip04, &customer(), &keys(3).pubkey(), "a secret", NONCE).unwrap();
    let event = event(&customer(), 5050, owned(tags), &secret);
    let error = parse(&event, &agent()).unwrap_err();
    let (message, _) = error.answer().unwrap();
    assert!(
        !message.contains(&content_of(&event)[..8]) && message.starts_with("the request cannot be decrypted")
    );
}

#[test]
fn an_open_request_that_others_can_decrypt_is_refused_silently() {
    let encrypted = encrypt(Cipher::Nip44, &customer(), &keys(3).pubkey(), "[]", NONCE).unwrap();
    let open = event(&customer(), 5050, owned(&[&["encrypted"]]), &encrypted);
    assert_eq!(parse(&open, &agent()).unwrap_err().answer(), None);
}

#[test]
fn a_content_without_the_tag_is_not_decrypted() {
    let text = r#"[["i","Hi"]]"#;
    let read = parse(&encrypted(Cipher::Nip44, text, &[]), &agent()).unwrap();
    assert_eq!((shown(&read).as_str(), read.cipher), ("", None));
}
