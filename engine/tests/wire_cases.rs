//! What the parser refuses, with which error; and unusual input that it accepts.

use relay_engine::types::{Filter, Limits, TagFilter};
use relay_engine::wire::{
    CREATED_AT_MAX, ClientMessage, ReplyTarget, WireErrorKind, parse_client_message, parse_event,
    parse_filter,
};

const ID: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const KEY: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn id() -> Box<str> {
    ID.into()
}

/// An event with one field replaced by this JSON text.
fn event_with(name: &str, value: &str) -> String {
    let sig = format!("\"{}\"", "3".repeat(128));
    let (id, key) = (format!("\"{ID}\""), format!("\"{KEY}\""));
    let mut fields = vec![
        ("id", &*id),
        ("pubkey", &key),
        ("created_at", "1700000000"),
        ("kind", "1"),
        ("tags", r#"[["t","a"]]"#),
        ("content", r#""hi""#),
        ("sig", &sig),
    ];
    match fields.iter_mut().find(|(field, _)| *field == name) {
        Some((_, field_value)) => *field_value = value,
        None if !name.is_empty() => fields.push((name, value)),
        None => {}
    }
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn event() -> String {
    event_with("", "")
}

#[track_caller]
fn taken(message: &str) {
    if let Err(error) = parse_client_message(message.as_bytes(), &Limits::default()) {
        panic!("{error}: {message}");
    }
}

#[track_caller]
fn refused(message: impl AsRef<[u8]>, expected: WireErrorKind, reply_to: ReplyTarget) {
    let message = message.as_ref();
    let shown = String::from_utf8_lossy(message);
    match parse_client_message(message, &Limits::default()) {
        Ok(read) => panic!("{read:?} from {shown}"),
        Err(error) => {
            assert_eq!((error.kind, error.reply_to), (expected, reply_to), "at {}: {shown}", error.at)
        }
    }
}

/// Refused as an EVENT, with an OK that names the id.
#[track_caller]
fn bad_event(name: &str, value: &str, expected: WireErrorKind) {
    refused(format!("[\"EVENT\",{}]", event_with(name, value)), expected, ReplyTarget::Event(Some(id())));
}

#[track_caller]
fn bad_filter(filter: &str, expected: WireErrorKind, prefix: &str) {
    for (verb, reply_to) in [("REQ", ReplyTarget::Req("s".into())), ("COUNT", ReplyTarget::Count("s".into()))]
    {
        refused(format!("[\"{verb}\",\"s\",{filter}]"), expected, reply_to);
    }
    assert_eq!(parse_filter(filter.as_bytes()).unwrap_err().prefix(), prefix);
}

fn integer(field: &'static str, max: u64) -> WireErrorKind {
    WireErrorKind::Integer { field, max }
}

#[test]
fn events_are_accepted_in_any_json_form() {
    taken(&format!("[\"EVENT\",{}]", event()));
    taken(&format!(" \t\r\n[ \"EVENT\" , {} ] \n", event()));
    taken(&format!("[\"\\u0045VENT\",{}]", event()));
    taken(&format!("[\"AUTH\",{}]", event()));
    // Additional elements at the end are ignored.
    taken(&format!("[\"EVENT\",{},null,{{\"a\":[1.5e3]}}]", event()));
    for (name, value) in [
        ("id", "\"\\u0031111111111111111111111111111111111111111111111111111111111111111\""),
        ("created_at", "0"),
        ("kind", "65535"),
        ("tags", "[]"),
        ("tags", "[[\"\"]]"),
        ("tags", " [ [ \"e\" , \"\" ] , [ \"-\" ] ] "),
        ("content", r#""""#),
        ("content", r#""\u0000\ud83d\udc9c\/\uFFFF""#),
        ("content", "\"\u{7f}\u{2028}\u{ffff}\u{fdd0}\u{10ffff}\""),
        ("extra", r#"{"a":[{},[],"",null,true,false,-0,0.5,1E+2],"a":{"a":1}}"#),
        ("ID", "1"),
    ] {
        taken(&format!("[\"EVENT\",{}]", event_with(name, value)));
    }
}

#[test]
fn bad_fields_are_named_and_the_id_is_found() {
    for value in ["-1", "-0", "1.0", "1e3", "1E3", "01", "00", "\"1\"", "null", "true", "[]", "1."] {
        bad_event("created_at", value, integer("created_at", CREATED_AT_MAX));
        bad_event("kind", value, integer("kind", 65535));
    }
    bad_event("kind", "65536", integer("kind", 65535));
    bad_event("kind", &"9".repeat(400), integer("kind", 65535));
    bad_event("created_at", "9223372036854775807", integer("created_at", CREATED_AT_MAX));
    bad_event("created_at", "18446744073709551616", integer("created_at", CREATED_AT_MAX));

    let key = WireErrorKind::Hex { field: "pubkey", chars: 64 };
    for value in
        [&KEY[1..], &KEY.replace('2', "A"), &KEY.replace('2', "g"), "", &KEY.repeat(2), &"é".repeat(32)]
    {
        bad_event("pubkey", &format!("\"{value}\""), key);
    }
    bad_event("sig", &format!("\"{KEY}\""), WireErrorKind::Hex { field: "sig", chars: 128 });
    bad_event("pubkey", "17", WireErrorKind::Expected("a string"));

    for (value, expected) in [
        (r#"{}"#, WireErrorKind::Expected("an array of tags")),
        (r#""a""#, WireErrorKind::Expected("an array of tags")),
        (r#"["a"]"#, WireErrorKind::Expected("a tag")),
        (r#"[[]]"#, WireErrorKind::EmptyTag),
        (r#"[["a"], [ ] ]"#, WireErrorKind::EmptyTag),
        (r#"[["a",1]]"#, WireErrorKind::Expected("a string")),
        (r#"[["a",null]]"#, WireErrorKind::Expected("a string")),
        (r#"[["a",["b"]]]"#, WireErrorKind::Expected("a string")),
        (r#"[["a"],]"#, WireErrorKind::Expected("a tag")),
        (r#"[["a",]]"#, WireErrorKind::Expected("a string")),
        (r#"[["a" "b"]]"#, WireErrorKind::Expected("a comma or ]")),
    ] {
        bad_event("tags", value, expected);
    }
    bad_event(
        "tags",
        &format!("[{}[\"\"]]", "[\"\"],".repeat(5_000)),
        WireErrorKind::TooManyTags { max: 5_000 },
    );

    for (value, expected) in [
        ("null", WireErrorKind::Expected("a string")),
        ("\"a\nb\"", WireErrorKind::ControlCharacter),
        ("\"a\0b\"", WireErrorKind::ControlCharacter),
        (r#""\x""#, WireErrorKind::Escape),
        (r#""\u12g4""#, WireErrorKind::Escape),
        (r#""\u12""#, WireErrorKind::Escape),
        (r#""\U0041""#, WireErrorKind::Escape),
        (r#""\ud83d""#, WireErrorKind::LoneSurrogate),
        (r#""\udc9c""#, WireErrorKind::LoneSurrogate),
        (r#""\udc9c\ud83d""#, WireErrorKind::LoneSurrogate),
        (r#""\ud83d\ud83d""#, WireErrorKind::LoneSurrogate),
        (r#""\ud83dx""#, WireErrorKind::LoneSurrogate),
        (r#""\ud83d\n""#, WireErrorKind::LoneSurrogate),
    ] {
        bad_event("content", value, expected);
        // Ignored values must be valid JSON too.
        bad_event("extra", &format!("[{value}]"), if value == "null" { continue } else { expected });
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused_everywhere() {
    for bytes in
        [&b"\xff"[..], b"\x80", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x92"]
    {
        for field in ["content", "extra"] {
            for before in 0..20 {
                let message =
                    format!("[\"EVENT\",{}]", event_with(field, &format!("\"{}@\"", "a".repeat(before))));
                let at = message.rfind('@').unwrap();
                let mut message = message.into_bytes();
                message.splice(at..=at, bytes.iter().copied());
                let error = parse_client_message(&message, &Limits::default()).unwrap_err();
                assert_eq!((error.at, error.kind), (at, WireErrorKind::Utf8), "{before} before {bytes:?}");
            }
        }
        let sub = [b"[\"CLOSE\",\"", bytes, b"\"]"].concat();
        refused(sub, WireErrorKind::Utf8, ReplyTarget::Notice);
    }
    refused(b"\xef\xbb\xbf[\"CLOSE\",\"a\"]", WireErrorKind::Expected("an array"), ReplyTarget::Notice);
}

#[test]
fn fields_must_be_there_once() {
    for name in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
        let whole: serde_json::Value = serde_json::from_str(&event()).unwrap();
        let mut less = whole.as_object().unwrap().clone();
        let value = less.remove(name).unwrap();
        let less = serde_json::to_string(&less).unwrap();
        let found = (name != "id").then(id);
        refused(format!("[\"EVENT\",{less}]"), WireErrorKind::Missing(name), ReplyTarget::Event(found));

        let escaped: String = name.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        for again in [name, &escaped] {
            let twice = event().replacen('{', &format!("{{\"{again}\":{value},"), 1);
            refused(format!("[\"EVENT\",{twice}]"), WireErrorKind::Repeated, ReplyTarget::Event(Some(id())));
        }
    }
    refused(r#"["AUTH",{}]"#, WireErrorKind::Missing("id"), ReplyTarget::Auth(None));
    let extra = event().replacen('{', r#"{"x":1,"y":2,"\u0078":3,"#, 1);
    refused(format!("[\"EVENT\",{extra}]"), WireErrorKind::Repeated, ReplyTarget::Event(Some(id())));
    let many: String = (0..65).map(|field| format!("\"x{field}\":0,")).collect();
    let extra = event().replacen('{', &format!("{{{many}"), 1);
    refused(format!("[\"EVENT\",{extra}]"), WireErrorKind::TooManyFields, ReplyTarget::Event(Some(id())));
}

#[test]
fn nesting_is_bounded_and_costs_no_stack() {
    for (open, close, value) in [("[", "]", "0"), ("{\"a\":", "}", "0"), ("[{\"a\":", "}]", "0")] {
        let levels = 64 / close.len();
        let good = open.repeat(levels) + value + &close.repeat(levels);
        taken(&format!("[\"EVENT\",{}]", event_with("extra", &good)));
        let deep = open.repeat(levels + 1) + value + &close.repeat(levels + 1);
        bad_event("extra", &deep, WireErrorKind::TooDeep);
        bad_event("extra", &open.repeat(100_000), WireErrorKind::TooDeep);
    }
    refused("[".repeat(1 << 20), WireErrorKind::Expected("a string"), ReplyTarget::Notice);
    refused(
        format!("[\"EVENT\",{}", "[".repeat(1000)),
        WireErrorKind::Expected("an event object"),
        ReplyTarget::Event(None),
    );
}

#[test]
fn the_id_is_found_wherever_it_stands() {
    let other = "4".repeat(64);
    let cases = [
        (format!("{{\"kind\":-1,\"id\":\"{ID}\"}}"), Some(id())),
        (format!("{{\"kind\":-1 , \"id\" : \"{ID}\" "), Some(id())),
        (format!("{{\"kind\":-1,\"x\":{{\"id\":\"{other}\"}},\"id\":\"{ID}\"}}"), Some(id())),
        (format!("{{\"kind\":-1,\"content\":\"\\\"id\\\":\\\"{other}\\\"\",\"id\":\"{ID}\"}}"), Some(id())),
        (format!("{{\"kind\":-1,\"tags\":[[\"id\",\"{other}\"]],\"id\":\"{ID}\"}}"), Some(id())),
        (format!("{{\"kind\":-1,\"content\":\"id\",\"id\":\"{ID}\"}}"), Some(id())),
        (format!("{{\"kind\":-1}},{{\"id\":\"{other}\"}}"), None),
        // The id is returned as it was sent, valid or not.
        (format!("{{\"kind\":-1,\"id\":\"{}\"}}", ID.replace('1', "F")), Some(ID.replace('1', "F").into())),
        (format!("{{\"kind\":-1,\"id\":\"{}\"}}", &ID[1..]), Some(ID[1..].into())),
        ("{\"kind\":-1,\"\\u0069d\":\"é\\n\"".to_owned(), Some("é\n".into())),
        ("{\"kind\":-1,\"id\":\"\\ud800\"}".to_owned(), None),
        (format!("{{\"kind\":-1,\"id\":1,\"id\":\"{ID}\"}}"), Some(id())),
        ("{\"kind\":-1,\"id\":\"".to_owned(), None),
        ("{\"kind\":-1,\"id".to_owned(), None),
        ("{\"kind\":-1,\"a\\".to_owned(), None),
        ("{\"kind\":-1,\"id\"".to_owned(), None),
    ];
    for (text, found) in cases {
        refused(format!("[\"EVENT\",{text}"), integer("kind", 65535), ReplyTarget::Event(found.clone()));
        refused(format!("[\"AUTH\",{text}"), integer("kind", 65535), ReplyTarget::Auth(found.clone()));
        assert_eq!(parse_event(text.as_bytes()).unwrap_err().reply_to, ReplyTarget::Event(found));
    }
    // Also if the event is valid and what follows is not.
    let good = event();
    refused(format!("[\"EVENT\",{good}"), WireErrorKind::End, ReplyTarget::Event(Some(id())));
    refused(format!("[\"EVENT\",{good}]]"), WireErrorKind::TrailingBytes, ReplyTarget::Event(Some(id())));
    refused(
        format!("[\"EVENT\",{good},]"),
        WireErrorKind::Expected("a value"),
        ReplyTarget::Event(Some(id())),
    );
    refused(
        format!("[\"EVENT\",{good},tru]"),
        WireErrorKind::Expected("a value"),
        ReplyTarget::Event(Some(id())),
    );
}

#[test]
fn texts_that_are_no_message_get_a_notice() {
    let expected = WireErrorKind::Expected;
    for (message, expected) in [
        ("", WireErrorKind::End),
        (" ", WireErrorKind::End),
        ("[", WireErrorKind::End),
        ("[]", expected("a string")),
        ("{}", expected("an array")),
        ("hello", expected("an array")),
        ("[1]", expected("a string")),
        ("[\"EVENT\"]", expected("a comma")),
        ("[\"REQ\"]", expected("a comma")),
        ("[\"REQ\",1,{}]", expected("a string")),
        ("[\"CLOSE\",\"\\ud800\"]", WireErrorKind::LoneSurrogate),
        ("[\"CLOSE\",]", expected("a string")),
        ("[\"PUBLISH\",{}]", WireErrorKind::UnknownMessageType),
        ("[\"event\",{}]", WireErrorKind::UnknownMessageType),
        ("[\"\"]", WireErrorKind::UnknownMessageType),
    ] {
        refused(message, expected, ReplyTarget::Notice);
    }
    taken(&format!("[\"REQ\",\"{}\",{{}}]", "é".repeat(64)));
    taken(&format!("[\"REQ\",\"{}\",{{}}]", "\\ud83d\\udc9c".repeat(64)));
    taken(r#"["CLOSE","a\"b",1,[]]"#);
}

#[test]
fn an_invalid_subscription_id_is_named_as_it_was_sent() {
    let long = "é".repeat(65);
    let bounds = WireErrorKind::SubId;
    refused(format!("[\"REQ\",\"{long}\",{{}}]"), bounds, ReplyTarget::Req((&*long).into()));
    refused(format!("[\"COUNT\",\"{long}\",{{}}]"), bounds, ReplyTarget::Count((&*long).into()));
    refused(format!("[\"CLOSE\",\"{long}\"]"), bounds, ReplyTarget::Close((&*long).into()));
    refused("[\"REQ\",\"\",{}]", bounds, ReplyTarget::Req("".into()));
    refused("[\"CLOSE\",\"\"]", bounds, ReplyTarget::Close("".into()));
    refused("[\"CLOSE\",\"a\"", WireErrorKind::End, ReplyTarget::Close("a".into()));
    refused("[\"CLOSE\",\"a\"]x", WireErrorKind::TrailingBytes, ReplyTarget::Close("a".into()));
    refused("[\"PUBLISH\",\"a\\n\"]", WireErrorKind::UnknownMessageType, ReplyTarget::Unknown("a\n".into()));
    refused("[\"req\" , \"a\"", WireErrorKind::UnknownMessageType, ReplyTarget::Unknown("a".into()));
    refused("[\"NEG-OPEN\",\"a\",{}", WireErrorKind::End, ReplyTarget::Neg("a".into()));
    refused("[\"NEG-MSG\",\"a\"", WireErrorKind::End, ReplyTarget::Neg("a".into()));
    refused("[\"NEG-CLOSE\",\"a\"", WireErrorKind::End, ReplyTarget::Notice);
    refused("[\"NEG-OPEN\",1]", WireErrorKind::Expected("a string"), ReplyTarget::Notice);
    refused(format!("[\"NEG-OPEN\",\"{long}\",{{}},\"61\"]"), bounds, ReplyTarget::Neg((&*long).into()));
    refused(r#"["NEG-MSG","","61"]"#, bounds, ReplyTarget::Neg("".into()));
    refused(format!("[\"NEG-CLOSE\",\"{long}\"]"), bounds, ReplyTarget::Notice);
}

#[test]
fn messages_of_nip_77_have_an_id_and_hex() {
    for text in [
        r#"["NEG-OPEN","a",{},"61"]"#,
        r#"["NEG-OPEN","a",{"kinds":[1],"limit":5},""]"#,
        r#"["NEG-OPEN","a",{},"6100000200",{"more":true}]"#,
        r#"["NEG-MSG","a","61aBCd"]"#,
        r#"["NEG-MSG","a","\u0036\u0031"]"#,
        r#"["NEG-CLOSE","a"]"#,
        r#"["NEG-CLOSE","a",1]"#,
    ] {
        taken(text);
    }
    let a = || ReplyTarget::Neg("a".into());
    for text in [r#"["NEG-OPEN","a",{},"6"]"#, r#"["NEG-MSG","a","6x"]"#, r#"["NEG-MSG","a","0x61"]"#] {
        refused(text, WireErrorKind::HexBytes, a());
    }
    // As the protocol was before NIP-77, with the size of ids before the message.
    refused(r#"["NEG-OPEN","a",{},16,"61"]"#, WireErrorKind::Expected("a string"), a());
    refused(r#"["NEG-OPEN","a",[{}],"61"]"#, WireErrorKind::Expected("a filter object"), a());
    refused(r#"["NEG-OPEN","a",{"foo":1},"61"]"#, WireErrorKind::UnknownFilterField, a());
    refused(r#"["NEG-OPEN","a",{"search":"x"},"61"]"#, WireErrorKind::Search, a());
    refused(r#"["NEG-OPEN","a",{}]"#, WireErrorKind::Expected("a comma"), a());
    refused(r#"["NEG-MSG","a"]"#, WireErrorKind::Expected("a comma"), a());
    let many = serde_json::json!(["NEG-OPEN", "a", {"kinds": vec![1; 20_001]}, "61"]).to_string();
    refused(many, WireErrorKind::TooManyValues { max: 20_000 }, a());
}

#[test]
fn invalid_filters_are_refused() {
    let invalid = "invalid";
    bad_filter(r#"{"ids":["abcd"]}"#, WireErrorKind::Hex { field: "each of ids", chars: 64 }, invalid);
    bad_filter(
        &format!("{{\"authors\":[\"{}\"]}}", KEY.replace('2', "A")),
        WireErrorKind::Hex { field: "each of authors", chars: 64 },
        invalid,
    );
    bad_filter(r##"{"#e":[""]}"##, WireErrorKind::Hex { field: "each of #e", chars: 64 }, invalid);
    bad_filter(r##"{"#p":["npub1"]}"##, WireErrorKind::Hex { field: "each of #p", chars: 64 }, invalid);
    bad_filter(r#"{"ids":[1]}"#, WireErrorKind::Expected("a string"), invalid);
    bad_filter(r#"{"ids":"a"}"#, WireErrorKind::Expected("an array"), invalid);
    bad_filter(r#"{"ids":null}"#, WireErrorKind::Expected("an array"), invalid);
    bad_filter(r##"{"#t":[1]}"##, WireErrorKind::Expected("a string"), invalid);
    bad_filter(r#"{"kinds":["1"]}"#, integer("each of kinds", 65535), invalid);
    bad_filter(r#"{"kinds":[65536]}"#, integer("each of kinds", 65535), invalid);
    bad_filter(r#"{"kinds":[1.0]}"#, integer("each of kinds", 65535), invalid);
    bad_filter(r#"{"kinds":1}"#, WireErrorKind::Expected("an array"), invalid);
    for (field, json) in
        [("since", "-1"), ("until", "1e9"), ("limit", "1.5"), ("limit", "null"), ("limit", "\"1\"")]
    {
        bad_filter(&format!("{{\"{field}\":{json}}}"), integer(field, u64::MAX), invalid);
    }
    bad_filter("[]", WireErrorKind::Expected("a filter object"), invalid);
    bad_filter(r#"{"kinds":[1],"\u006binds":[2]}"#, WireErrorKind::Repeated, invalid);
    bad_filter(r##"{"#t":["a"],"#t":["b"]}"##, WireErrorKind::Repeated, invalid);
    bad_filter(r#"{"search":"x"}"#, WireErrorKind::Search, "unsupported");
    for name in ["#", "#ab", "#1", "#é", "#-", "e", "", "Ids", "&t"] {
        bad_filter(&format!("{{\"{name}\":[]}}"), WireErrorKind::UnknownFilterField, "unsupported");
    }
    let sub: Box<str> = "s".into();
    refused(r#"["REQ","s"]"#, WireErrorKind::NoFilter, ReplyTarget::Req(sub.clone()));
    refused(r#"["COUNT","s"]"#, WireErrorKind::NoFilter, ReplyTarget::Count(sub.clone()));
    refused(r#"["REQ","s",{}"#, WireErrorKind::End, ReplyTarget::Req(sub.clone()));
    let many = format!("[\"REQ\",\"s\"{}]", ",{}".repeat(101));
    refused(many, WireErrorKind::TooManyFilters { max: 100 }, ReplyTarget::Req(sub.clone()));
    let half = format!("{{\"kinds\":[{}1]}}", "1,".repeat(9_999));
    taken(&format!("[\"REQ\",\"s\",{half},{half}]"));
    let over = format!("[\"REQ\",\"s\",{half},{half},{{\"#t\":[\"\"]}}]");
    refused(over, WireErrorKind::TooManyValues { max: 20_000 }, ReplyTarget::Req(sub));
}

#[test]
fn filters_are_parsed() {
    let check =
        |json: &str, expected: Filter| assert_eq!(parse_filter(json.as_bytes()), Ok(expected), "{json}");
    check(" { } ", Filter::default());
    check(
        r#"{"ids":[],"authors":[ ],"kinds":[]}"#,
        Filter {
            ids: Some(Box::default()),
            authors: Some(Box::default()),
            kinds: Some(Box::default()),
            ..Filter::default()
        },
    );
    check(
        r#"{"kinds":[7,1,7,0],"since":18446744073709551616,"until":9223372036854775806,"limit":99999999999}"#,
        Filter {
            kinds: Some([0, 1, 7].into()),
            since: Some(CREATED_AT_MAX + 1),
            until: Some(CREATED_AT_MAX),
            limit: Some(u32::MAX),
            ..Filter::default()
        },
    );
    let values = |list: &[&str]| list.iter().map(|value| value.as_bytes().into()).collect();
    check(
        &format!(r##"{{"#t":["b","a\u0062]","","b"],"#e":["{ID}"],"#D":[]}}"##),
        Filter {
            tags: [
                TagFilter { letter: b'D', values: values(&[]) },
                TagFilter { letter: b'e', values: values(&[ID]) },
                TagFilter { letter: b't', values: values(&["", "ab]", "b"]) },
            ]
            .into(),
            ..Filter::default()
        },
    );
}

#[test]
fn a_message_of_exactly_the_limit_is_taken() {
    let message = format!("[\"EVENT\",{}]", event());
    for (bytes_max, fits) in [(message.len(), true), (message.len() - 1, false)] {
        let limits = Limits { message_bytes_max: bytes_max, ..Limits::default() };
        let read = parse_client_message(message.as_bytes(), &limits);
        if fits {
            assert!(matches!(read, Ok(ClientMessage::Event(_))));
        } else {
            let error = read.unwrap_err();
            let bytes = message.len() as u64;
            assert_eq!(error.kind, WireErrorKind::MessageTooLong { bytes, bytes_max });
            assert_eq!(error.reply_to, ReplyTarget::Event(Some(id())));
        }
    }
    let limits = Limits { message_bytes_max: 10, ..Limits::default() };
    let error = parse_client_message(br#"["REQ","abc",{}]"#, &limits).unwrap_err();
    assert_eq!(error.reply_to, ReplyTarget::Req("abc".into()));
    assert_eq!(error.to_string(), "the message has 16 bytes, which is over the limit of 10");
}

#[test]
fn errors_name_the_offset() {
    let error = parse_event(br#"{"kind":1.5}"#).unwrap_err();
    assert_eq!(error.to_string(), "kind must be an integer from 0 to 65535 at byte 8");
    let error = parse_event(b"{} ").unwrap_err();
    assert_eq!(error.to_string(), "the event has no id");
}

#[test]
fn trailing_white_space_is_all_that_may_follow_an_event() {
    let event = event();
    parse_event(format!(" {event} \r\n").as_bytes()).unwrap();
    for after in ["x", ",", "{}", "\0", "\u{c}"] {
        let error = parse_event(format!("{event}{after}").as_bytes()).unwrap_err();
        assert_eq!((error.at, error.kind), (event.len(), WireErrorKind::TrailingBytes), "{after:?}");
    }
}
