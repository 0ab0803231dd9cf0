//! Feedback and results: their exact tags, their sizes, and what others' answers are read as.

mod nip90_kit;

use nip90_kit::{
    ASKED_AT, agent, check_event, check_valid, content_of, customer, event, keys, owned, request, tags_of,
};
use relay_agent::cipher::{Cipher, decrypt, encrypt};
use relay_agent::nip90::{
    COMMON_EVENT_BYTES_MAX, Feedback, MESSAGE_CHARS_MAX, ReplyTo, feedback, fits, parse, pong, result,
};
use relay_agent::testing::{JobAnswer, JobAnswerError, Status, read_answer};
use relay_engine::types::{Event, Limits};

const AT: u64 = ASKED_AT + 1;
const EXPIRES: &str = "1790000601";
const NONCE: [u8; 32] = [9; 32];
const RELAY: &str = "wss://relay.example";

fn reply_to(request: &Event, cipher: Option<Cipher>) -> ReplyTo<'static> {
    ReplyTo::event(request, cipher, Some(RELAY))
}

#[test]
fn feedback_has_exactly_these_tags() {
    let request = request(&[&["i", "Hi", "text"]]);
    let alt = "Feedback on a job request of kind 5050: ";
    // Feedback, its status tag, its content.
    let rows: [(Feedback<'_>, &[&str], &str); 5] = [
        (Feedback::Processing(""), &["status", "processing"], ""),
        (Feedback::Processing("waiting"), &["status", "processing", "waiting"], ""),
        (Feedback::Partial("a \"piece\"\n"), &["status", "partial"], "a \"piece\"\n"),
        (Feedback::Error("no such model"), &["status", "error", "no such model"], "no such model"),
        (Feedback::Error(""), &["status", "error"], ""),
    ];
    for (what, status, content) in rows {
        let made = feedback(&agent(), &reply_to(&request, None), what, AT, NONCE).unwrap();
        let alt = format!("{alt}{}", status[1]);
        let tags: &[&[&str]] = &[
            status,
            &["e", "{request}", RELAY],
            &["p", "{customer}"],
            &["alt", &alt],
            &["expiration", EXPIRES],
        ];
        check_event(&made, 7000, tags, content, &request);
        assert_eq!(made.created_at, AT);
    }
}

#[test]
fn without_a_url_of_the_host_there_is_no_hint() {
    let request = request(&[]);
    let to = ReplyTo::event(&request, None, None);
    let made = feedback(&agent(), &to, Feedback::Processing(""), AT, NONCE).unwrap();
    assert_eq!(tags_of(&made)[1], ["e", &request.id.to_string()]);
    assert_eq!(to, ReplyTo::job(&parse(&request, &agent()).unwrap(), None));
}

#[test]
fn words_are_cut() {
    let request = request(&[]);
    let message = "ä".repeat(MESSAGE_CHARS_MAX + 1);
    let made = feedback(&agent(), &reply_to(&request, None), Feedback::Error(&message), AT, NONCE).unwrap();
    assert_eq!(content_of(&made).chars().count(), MESSAGE_CHARS_MAX);
    assert_eq!(tags_of(&made)[0][2].chars().count(), MESSAGE_CHARS_MAX);
}

#[test]
fn encrypted_feedback_shows_nothing_of_the_job() {
    let request = request(&[&["encrypted"]]);
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let rows = [
            (Feedback::Processing(""), r#"[["status","processing"],["content",""]]"#),
            (Feedback::Partial("piece"), r#"[["status","partial"],["content","piece"]]"#),
            (Feedback::Error("too long"), r#"[["status","error","too long"],["content","too long"]]"#),
        ];
        for (what, hidden) in rows {
            let made = feedback(&agent(), &reply_to(&request, Some(cipher)), what, AT, NONCE).unwrap();
            let tags: &[&[&str]] =
                &[&["e", "{request}", RELAY], &["p", "{customer}"], &["encrypted"], &["expiration", EXPIRES]];
            let content = content_of(&made);
            check_event(&made, 7000, tags, &content, &request);
            let opened = decrypt(&customer(), &agent().pubkey(), &content).unwrap();
            assert_eq!(opened, (cipher, hidden.to_owned()));
            // As a customer reads it.
            let read = read_answer(&made, &customer()).unwrap();
            assert_eq!((read.request, read.status), (Some(request.id), Status::read(what.status())));
        }
    }
}

#[test]
fn a_result_has_exactly_these_tags() {
    let request =
        request(&[&["i", "Hi", "text"], &["i", "https://a.example", "url", "", "m"], &["bid", "5"]]);
    let made = result(&agent(), &reply_to(&request, None), &request, "Hi\n", AT, NONCE).unwrap();
    let tags: &[&[&str]] = &[
        &["request", "{request-json}"],
        &["e", "{request}", RELAY],
        &["i", "Hi", "text"],
        &["i", "https://a.example", "url", "", "m"],
        &["p", "{customer}"],
        &["status", "success"],
        &["alt", "Result of a job request of kind 5050"],
    ];
    check_event(&made, 6050, tags, "Hi\n", &request);
    assert_eq!(made.expires_at, u64::MAX, "later jobs may be chained to it");
    // No inputs, no `i`.
    let request = nip90_kit::request(&[]);
    let made = result(&agent(), &reply_to(&request, None), &request, "", AT, NONCE).unwrap();
    assert!(tags_of(&made).iter().all(|tag| tag[0] != "i"));
    assert_eq!(content_of(&made), "");
}

#[test]
fn an_encrypted_result_has_the_request_as_it_came_and_no_inputs() {
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let hidden = r#"[["i","secret input","text"]]"#;
        let encrypted = encrypt(cipher, &customer(), &agent().pubkey(), hidden, NONCE).unwrap();
        let p = agent().pubkey().to_string();
        // A clear input is not repeated either.
        let request =
            event(&customer(), 5050, owned(&[&["p", &p], &["encrypted"], &["i", "clear"]]), &encrypted);
        let job = parse(&request, &agent()).unwrap();
        let to = ReplyTo::job(&job, Some(RELAY));
        for (text, opened) in [("secret result", "secret result"), ("", "\n")] {
            let made = result(&agent(), &to, &request, text, AT, NONCE).unwrap();
            let tags: &[&[&str]] = &[
                &["request", "{request-json}"],
                &["e", "{request}", RELAY],
                &["p", "{customer}"],
                &["encrypted"],
                &["status", "success"],
            ];
            check_event(&made, 6050, tags, &content_of(&made), &request);
            let json = String::from_utf8_lossy(made.json()).into_owned();
            assert!(!json.contains("secret"), "{json}");
            // A NIP-04 request is answered in NIP-04.
            let read = decrypt(&customer(), &agent().pubkey(), &content_of(&made)).unwrap();
            assert_eq!(read, (cipher, opened.to_owned()));
            assert_eq!(read_answer(&made, &customer()).unwrap().content, opened);
            assert_eq!(read_answer(&made, &keys(3)), Err(JobAnswerError::Encrypted));
        }
    }
}

#[test]
fn inputs_over_1024_bytes_are_left_out() {
    let (fits, over) = ("x".repeat(1_024), "x".repeat(1_025));
    let request =
        request(&[&["i", &fits], &["i", &over], &["i", "short", "text"], &["i", "m", "text", "", &over]]);
    let made = result(&agent(), &reply_to(&request, None), &request, "", AT, NONCE).unwrap();
    let inputs: Vec<String> =
        tags_of(&made).into_iter().filter(|tag| tag[0] == "i").map(|tag| tag[1].clone()).collect();
    assert_eq!(inputs, [fits, "short".to_owned()]);
    assert!(tags_of(&made).iter().any(|tag| tag[0] == "request"), "it has more than one letter");
}

#[test]
fn an_event_that_would_pass_60_kib_leaves_out_the_request_then_the_inputs() {
    let request = request(&[&["i", &"\n".repeat(1_000), "text"]]);
    let sizes = |content: usize| {
        let made =
            result(&agent(), &reply_to(&request, None), &request, &"x".repeat(content), AT, NONCE).unwrap();
        check_valid(&made);
        let names: Vec<String> = tags_of(&made).into_iter().map(|tag| tag[0].clone()).collect();
        (made.json().len(), names)
    };
    let (empty, names) = sizes(0);
    assert_eq!(names, ["request", "e", "i", "p", "status", "alt"]);
    let most = COMMON_EVENT_BYTES_MAX - empty;
    assert_eq!(sizes(most), (COMMON_EVENT_BYTES_MAX, names));
    let (bytes, names) = sizes(most + 1);
    assert_eq!(names, ["e", "i", "p", "status", "alt"]);
    let most = most + 1 + COMMON_EVENT_BYTES_MAX - bytes;
    assert_eq!(sizes(most), (COMMON_EVENT_BYTES_MAX, names));
    let (bytes, names) = sizes(most + 1);
    assert_eq!(names, ["e", "p", "status", "alt"]);
    assert!(bytes < COMMON_EVENT_BYTES_MAX);
    // A large result is published in the same short form.
    assert_eq!(sizes(200_000).1, names);
}

#[test]
fn thousands_of_inputs_do_not_come_back() {
    let tags = owned(&vec![&["i", "0123456789"] as &[&str]; 2_500]);
    let request = event(&customer(), 5050, tags, "");
    let made = result(&agent(), &reply_to(&request, None), &request, "x", AT, NONCE).unwrap();
    assert!(made.json().len() <= COMMON_EVENT_BYTES_MAX, "{}", made.json().len());
}

#[test]
fn fits_says_what_a_relay_would() {
    let request = request(&[]);
    let limits = Limits { content_chars_max: 1_000, event_bytes_max: 1_500, ..Limits::default() };
    let publishable = |event: &Event| {
        content_of(event).chars().count() <= limits.content_chars_max
            && event.json().len() <= limits.event_bytes_max
    };
    for cipher in [None, Some(Cipher::Nip44), Some(Cipher::Nip04)] {
        let to = reply_to(&request, cipher);
        let mut changes = 0;
        let mut last = true;
        for unit in ["x", "ä", "\n", "\u{1}"] {
            for count in (0..1_100).step_by(7) {
                let text = unit.repeat(count);
                let fits = fits(&to, &text, &limits);
                // The smallest form of the event.
                let made = result(&agent(), &to, &request, &text, AT, NONCE).unwrap();
                let bare: Vec<_> = tags_of(&made).into_iter().filter(|tag| tag[0] != "request").collect();
                let draft = relay_agent::identity::Draft {
                    created_at: made.created_at,
                    kind: made.kind,
                    tags: bare,
                    content: content_of(&made),
                };
                let bare = agent().sign(&draft);
                let expected = publishable(&bare);
                assert_eq!(fits.is_ok(), expected, "{cipher:?} {unit:?} {count}: {fits:?}");
                changes += usize::from(last != expected);
                last = expected;
            }
        }
        assert!(changes >= 4, "both sides of the limit are seen");
    }
}

#[test]
fn fits_names_sizes() {
    let request = request(&[]);
    let limits = Limits::default();
    let rows = [
        (None, 131_072, None),
        (None, 131_073, Some("the result has 131073 characters, and 131072 at most fit")),
        (Some(Cipher::Nip44), 65_535, None),
        (Some(Cipher::Nip44), 65_536, Some("the result has 65536 bytes, and an encrypted one 65535 at most")),
        (Some(Cipher::Nip04), 98_000, None),
        (Some(Cipher::Nip04), 98_304, Some("the result has 131124 characters, and 131072 at most fit")),
    ];
    for (cipher, bytes, message) in rows {
        let text = "x".repeat(bytes);
        let to = reply_to(&request, cipher);
        assert_eq!(fits(&to, &text, &limits).err().as_deref(), message, "{cipher:?} {bytes}");
    }
    let small = Limits { event_bytes_max: 500, ..limits };
    let message = fits(&reply_to(&request, None), &"x".repeat(100), &small).unwrap_err();
    assert_eq!(message, "the result's event has 680 bytes, and 500 at most fit");
    for (event_bytes_max, expected) in [(680, true), (679, false)] {
        let limits = Limits { event_bytes_max, ..small.clone() };
        assert_eq!(fits(&reply_to(&request, None), &"x".repeat(100), &limits).is_ok(), expected);
    }
}

#[test]
fn a_pong_answers_its_ping() {
    let p = agent().pubkey().to_string();
    let ping = event(&customer(), 7007, owned(&[&["p", &p]]), "");
    let made = pong(&agent(), &ping, Some(RELAY), AT);
    let tags: &[&[&str]] =
        &[&["e", "{request}", RELAY], &["p", "{customer}"], &["status", "pong"], &["expiration", EXPIRES]];
    check_event(&made, 7000, tags, "Ready for jobs", &ping);
    assert_eq!(read_answer(&made, &customer()).unwrap().status, Status::Pong);
}

#[test]
fn answers_of_others_are_read_as_they_write_them() {
    let id = "ab".repeat(32);
    let answer = |status: Status| JobAnswer {
        request: id.parse().ok(),
        status,
        message: None,
        content: "text".to_owned(),
        amount_msat: None,
        bolt11: None,
    };
    let bolt11 = "lnbc10u1p3pj257pp5yztkwjcz5ftl5laxkav23zmzekaw37zk6kmv80pk4xaev5qhtz7q";
    let paid = |amount: Option<u64>, bolt11: Option<&str>| JobAnswer {
        amount_msat: amount,
        bolt11: bolt11.map(str::to_owned),
        ..answer(Status::PaymentRequired)
    };
    let required: &[&str] = &["status", "payment-required"];
    let rows: &[(u16, &[&[&str]], JobAnswer)] = &[
        (7000, &[required], paid(None, None)),
        (7000, &[&["status", "payment_required"]], paid(None, None)),
        (7000, &[required, &["amount", "1000", bolt11]], paid(Some(1000), Some(bolt11))),
        (7000, &[required, &["amount", "100_000"]], paid(Some(100_000), None)),
        (7000, &[required, &["amount", "1000", "me@wallet.example"]], paid(Some(1000), None)),
        (7000, &[required, &["amount", "a lot", ""]], paid(None, None)),
        (7000, &[&["status", "processing"]], answer(Status::Processing)),
        (7000, &[&["status", "scheduled"]], answer(Status::Processing)),
        (7000, &[&["status", "chain-scheduled"]], answer(Status::Processing)),
        (7000, &[&["status", "partial"]], answer(Status::Partial)),
        (
            7000,
            &[&["status", "error", "why"]],
            JobAnswer { message: Some("why".into()), ..answer(Status::Error) },
        ),
        (7000, &[&["status", "payment-rejected"]], answer(Status::Error)),
        (7000, &[&["status", "pong"]], answer(Status::Pong)),
        (7000, &[&["status", "success"]], answer(Status::Success)),
        (
            7000,
            &[&["status", "subscription-required"]],
            answer(Status::Other("subscription-required".into())),
        ),
        (7000, &[], answer(Status::Other(String::new()))),
        (6050, &[], answer(Status::Success)),
        (6050, &[&["status", "success"]], answer(Status::Success)),
    ];
    for (kind, tags, expected) in rows {
        let mut all = owned(tags);
        all.push(vec!["e".to_owned(), id.clone()]);
        let made = event(&keys(3), *kind, all, "text");
        assert_eq!(read_answer(&made, &agent()).as_ref(), Ok(expected), "{kind} {tags:?}");
    }
    for kind in [5050, 1, 7007] {
        assert_eq!(read_answer(&event(&keys(3), kind, Vec::new(), ""), &agent()), Err(JobAnswerError::Kind));
    }
}

#[test]
fn hidden_feedback_of_others_may_be_tags_or_one_bare_tag() {
    let rows = [
        (r#"[["status","error","why"],["content","text"]]"#, Status::Error, Some("why"), "text"),
        (r#"["status","payment-required"]"#, Status::PaymentRequired, None, ""),
        (r#"[["e","0"],["content","text"]]"#, Status::Other(String::new()), None, "text"),
    ];
    for (hidden, status, message, text) in rows {
        let encrypted = encrypt(Cipher::Nip44, &keys(3), &agent().pubkey(), hidden, NONCE).unwrap();
        let made = event(&keys(3), 7000, owned(&[&["encrypted"], &["content", "clear"]]), &encrypted);
        let read = read_answer(&made, &agent()).unwrap();
        assert_eq!((read.status, read.message.as_deref(), read.content.as_str()), (status, message, text));
    }
    // What is hidden counts before what everybody could have seen.
    let encrypted =
        encrypt(Cipher::Nip44, &keys(3), &agent().pubkey(), r#"["status","error"]"#, NONCE).unwrap();
    let made = event(&keys(3), 7000, owned(&[&["status", "processing"], &["encrypted"]]), &encrypted);
    assert_eq!(read_answer(&made, &agent()).unwrap().status, Status::Error);
    let nonsense = event(&keys(3), 7000, owned(&[&["encrypted"]]), "nonsense");
    assert_eq!(read_answer(&nonsense, &agent()), Err(JobAnswerError::Encrypted));
}
