//! Unanswered messages that are lost with the object's memory: their sockets are closed, so that clients reconnect.

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime};

fn note(runtime: &Runtime, content: &str) -> String {
    let note = event(&key(1)).at(runtime.now.seconds()).content(content).sign();
    format!(r#"["EVENT",{}]"#, note.json())
}

#[test]
fn only_sockets_with_unanswered_messages_are_closed() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let (idle, reader) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    let (writer, mixed) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    let authenticates = runtime.connect().unwrap();
    runtime.text(reader.key, r#"["REQ","all",{"kinds":[1]}]"#);
    let done = note(&runtime, "answered");
    for socket in [&reader, &writer, &mixed] {
        runtime.text(socket.key, &done);
    }
    runtime.drive();
    // Refused at once, so not unanswered.
    runtime.text(idle.key, r#"["EVENT",{}]"#);
    runtime.text(reader.key, r#"["CLOSE","none"]"#);
    let before = writer.output.borrow().len();
    runtime.text(writer.key, &note(&runtime, "lost"));
    runtime.text(mixed.key, &note(&runtime, "lost too"));
    runtime.text(mixed.key, r#"["REQ","waits",{"kinds":[1]}]"#);
    let auth = event(&key(1)).kind(22_242).at(runtime.now.seconds()).tag(["challenge", "x"]).sign();
    runtime.text(authenticates.key, &format!(r#"["AUTH",{}]"#, auth.json()));
    let is_answered = authenticates.output.borrow().iter().any(|frame| frame.starts_with(r#"["OK""#));
    assert_eq!(writer.output.borrow().len(), before, "no answer before a tick");
    runtime.evict();
    runtime.drive();
    for socket in [&writer, &mixed] {
        assert_eq!(socket.closed.get(), Some(1012));
        assert!(socket.attachment.borrow().is_empty());
    }
    assert!(is_answered);
    assert_eq!((idle.closed.get(), reader.closed.get(), authenticates.closed.get()), (None, None, None));
    assert_eq!(runtime.store.events(), 1);
    // Sent again, the event is stored, and the reader is still connected.
    let again = runtime.connect().unwrap();
    reader.output.borrow_mut().clear();
    runtime.text(again.key, &note(&runtime, "lost"));
    runtime.drive();
    assert!(reader.output.borrow().iter().any(|frame| frame.starts_with(r#"["EVENT","all""#)));
    runtime.evict();
    runtime.drive();
    assert_eq!(
        (again.closed.get(), reader.closed.get()),
        (None, None),
        "nothing was unanswered after the tick"
    );
}

#[test]
fn requests_sent_at_once_are_answered_or_their_socket_is_closed() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let socket = runtime.connect().unwrap();
    runtime.drive();
    for sub in ["a", "b", "c"] {
        runtime.text(socket.key, &format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#));
    }
    runtime.evict();
    runtime.drive();
    assert_eq!(socket.closed.get(), Some(1012), "b and c waited for a");
    let socket = runtime.connect().unwrap();
    for sub in ["a", "b", "c"] {
        runtime.text(socket.key, &format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#));
    }
    runtime.drive();
    runtime.evict();
    runtime.drive();
    assert_eq!(socket.closed.get(), None);
    let ends = socket.output.borrow().iter().filter(|frame| frame.starts_with(r#"["EOSE""#)).count();
    assert_eq!(ends, 3);
    // A single request is in the session's snapshot.
    runtime.text(socket.key, r#"["REQ","d",{"kinds":[1]}]"#);
    runtime.evict();
    runtime.drive();
    assert_eq!(socket.closed.get(), None);
    assert!(socket.output.borrow().iter().any(|frame| frame.starts_with(r#"["EOSE","d""#)));
}
