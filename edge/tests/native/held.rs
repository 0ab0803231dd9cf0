//! Messages that are lost with the memory: whoever sent them is told by a closed socket.

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Forgets, Runtime};

fn note(runtime: &Runtime, content: &str) -> String {
    let note = event(&key(1)).at(runtime.now.seconds()).content(content).sign();
    format!(r#"["EVENT",{}]"#, note.json())
}

#[test]
fn who_was_not_answered_is_closed_and_nobody_else() {
    let mut runtime = Runtime::new(Settings::default(), Forgets::Never);
    let (idle, reader) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    let (writer, mixed) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    let authenticates = runtime.connect().unwrap();
    runtime.text(reader.key, r#"["REQ","all",{"kinds":[1]}]"#);
    let done = note(&runtime, "answered");
    for socket in [&reader, &writer, &mixed] {
        runtime.text(socket.key, &done);
    }
    runtime.drive();
    // Refused at once: nothing of it waits.
    runtime.text(idle.key, r#"["EVENT",{}]"#);
    runtime.text(reader.key, r#"["CLOSE","none"]"#);
    let before = writer.output.borrow().len();
    runtime.text(writer.key, &note(&runtime, "lost"));
    runtime.text(mixed.key, &note(&runtime, "lost too"));
    runtime.text(mixed.key, r#"["REQ","behind",{"kinds":[1]}]"#);
    let auth = event(&key(1)).kind(22_242).at(runtime.now.seconds()).tag(["challenge", "x"]).sign();
    runtime.text(authenticates.key, &format!(r#"["AUTH",{}]"#, auth.json()));
    let is_answered = authenticates.output.borrow().iter().any(|frame| frame.starts_with(r#"["OK""#));
    assert_eq!(writer.output.borrow().len(), before, "no turn, no answer");
    runtime.lose();
    runtime.drive();
    for socket in [&writer, &mixed] {
        assert_eq!(socket.closed.get(), Some(1012));
        assert!(socket.attachment.borrow().is_empty());
    }
    assert!(is_answered);
    assert_eq!((idle.closed.get(), reader.closed.get(), authenticates.closed.get()), (None, None, None));
    assert_eq!(runtime.store.events(), 1);
    // Sent again, it is taken, and the reader is still there.
    let again = runtime.connect().unwrap();
    reader.output.borrow_mut().clear();
    runtime.text(again.key, &note(&runtime, "lost"));
    runtime.drive();
    assert!(reader.output.borrow().iter().any(|frame| frame.starts_with(r#"["EVENT","all""#)));
    runtime.lose();
    runtime.drive();
    assert_eq!((again.closed.get(), reader.closed.get()), (None, None), "a turn clears the mark");
}

#[test]
fn requests_in_one_breath_are_answered_or_closed() {
    let mut runtime = Runtime::new(Settings::default(), Forgets::Never);
    let socket = runtime.connect().unwrap();
    runtime.drive();
    for sub in ["a", "b", "c"] {
        runtime.text(socket.key, &format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#));
    }
    runtime.lose();
    runtime.drive();
    assert_eq!(socket.closed.get(), Some(1012), "b and c waited for a");
    let socket = runtime.connect().unwrap();
    for sub in ["a", "b", "c"] {
        runtime.text(socket.key, &format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#));
    }
    runtime.drive();
    runtime.lose();
    runtime.drive();
    assert_eq!(socket.closed.get(), None);
    let ends = socket.output.borrow().iter().filter(|frame| frame.starts_with(r#"["EOSE""#)).count();
    assert_eq!(ends, 3);
    // One alone is in the snapshot.
    runtime.text(socket.key, r#"["REQ","d",{"kinds":[1]}]"#);
    runtime.lose();
    runtime.drive();
    assert_eq!(socket.closed.get(), None);
    assert!(socket.output.borrow().iter().any(|frame| frame.starts_with(r#"["EOSE","d""#)));
}
