//! Limits by client address.

use std::net::IpAddr;
use std::rc::Rc;

use relay_edge::metrics::render;
use relay_edge::object::ConnectError;
use relay_edge::settings::{NetworkSettings, Settings};
use relay_edge::shard::Shards;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::Limits;

use super::world::{Hibernates, Runtime, Socket};

fn runtime(hibernates: Hibernates, limits: Limits) -> Runtime {
    let network = NetworkSettings {
        connections_per_address_max: 3,
        write_stall_seconds: 10,
        ..NetworkSettings::default()
    };
    Runtime::new(Settings { network, limits, ..Settings::default() }, hibernates)
}

fn connect(runtime: &mut Runtime, from: &str) -> Result<Rc<Socket>, ConnectError> {
    let from: IpAddr = from.parse().unwrap();
    runtime.connect_from(Some(from))
}

/// The client has left. The object is not told.
fn leave(socket: &Socket) {
    socket.closed.set(Some(1005));
    socket.output.borrow_mut().clear();
}

fn disconnect(runtime: &mut Runtime, socket: &Socket) {
    leave(socket);
    let (now, key) = (runtime.now, socket.key);
    runtime.object().disconnect(now, key);
}

/// The value of a metric without labels.
fn metric(runtime: &mut Runtime, name: &str) -> u64 {
    let now = runtime.now;
    let text = render(&[(Shards::ONE.for_connection(), Ok(runtime.object().families(now)))]);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect(name).parse().unwrap()
}

#[test]
fn connections_of_an_address_are_limited_also_after_hibernation() {
    for hibernates in [Hibernates::Never, Hibernates::Always] {
        let mut runtime = runtime(hibernates, Limits::default());
        // An IPv4 address in either notation, and the /64 of an IPv6 address.
        for three in
            [["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], ["2001:db8::1", "2001:db8::2", "2001:db8::3"]]
        {
            let sockets = three.map(|from| connect(&mut runtime, from).unwrap());
            let refused = |runtime: &mut Runtime| {
                runtime.drive();
                three.map(|from| connect(runtime, from).err()) == [Some(ConnectError::AddressFull); 3]
            };
            assert!(refused(&mut runtime));
            if hibernates == Hibernates::Always {
                runtime.hibernate();
                assert!(refused(&mut runtime), "they are counted again");
            }
            disconnect(&mut runtime, &sockets[1]);
            connect(&mut runtime, three[0]).expect("one is closed");
            assert!(refused(&mut runtime));
        }
        connect(&mut runtime, "192.0.2.2").expect("another address");
        connect(&mut runtime, "2001:db8:0:1::1").expect("another /64");
        runtime.connect().expect("without an address");
        assert_eq!(metric(&mut runtime, "relay_connections_of_busiest_address"), 3);
    }
}

#[test]
fn sockets_that_close_during_hibernation_free_their_places() {
    let mut runtime = runtime(Hibernates::Never, Limits::default());
    let sockets = [(); 3].map(|()| connect(&mut runtime, "192.0.2.1").unwrap());
    assert_eq!(connect(&mut runtime, "192.0.2.1").err(), Some(ConnectError::AddressFull));
    assert_eq!(metric(&mut runtime, "relay_connections_refused_by_address_total"), 1);
    runtime.hibernate();
    sockets[..2].iter().for_each(|socket| leave(socket));
    let _again = [(); 2].map(|()| connect(&mut runtime, "192.0.2.1").unwrap());
    assert!(connect(&mut runtime, "192.0.2.1").is_err());
}

/// If it freed its place at once, a client that lets itself be closed with unread output, again and again, could hold any number
/// of sockets.
#[test]
fn a_closing_socket_keeps_its_place_until_it_has_closed() {
    let mut runtime = runtime(Hibernates::Never, Limits::default());
    let writer = runtime.connect().unwrap();
    for n in 0..20 {
        let content = format!("{n} {}", "x".repeat(100_000));
        let note = event(&key(1)).at(runtime.now.seconds()).content(content).sign();
        runtime.text(writer.key, &format!(r#"["EVENT",{}]"#, note.json()));
    }
    runtime.drive();
    let sockets = [(); 3].map(|()| connect(&mut runtime, "192.0.2.1").unwrap());
    for socket in &sockets {
        runtime.text(socket.key, r#"["REQ","all",{"limit":500}]"#);
    }
    // The first check notes the backlog, the second one closes.
    runtime.advance(1);
    runtime.advance(11);
    runtime.drive();
    assert!(sockets.iter().all(|socket| socket.closed.get() == Some(1008)), "closed, and unread");
    assert!(connect(&mut runtime, "192.0.2.1").is_err());
    runtime.hibernate();
    assert!(connect(&mut runtime, "192.0.2.1").is_err(), "their attachments say whose they are");
    disconnect(&mut runtime, &sockets[0]);
    let alive = connect(&mut runtime, "192.0.2.1").expect("one has closed");
    assert!(connect(&mut runtime, "192.0.2.1").is_err());

    // So does one whose session is lost with the object's memory.
    runtime
        .text(alive.key, &format!(r#"["EVENT",{}]"#, event(&key(1)).at(runtime.now.seconds()).sign().json()));
    alive.output.borrow_mut().push_back("unread".to_owned());
    runtime.evict();
    assert!(connect(&mut runtime, "192.0.2.1").is_err());
    assert_eq!(alive.closed.get(), Some(1012));
    sockets[1..].iter().chain([&alive]).for_each(|socket| disconnect(&mut runtime, socket));
    assert_eq!(metric(&mut runtime, "relay_connections_of_busiest_address"), 0);
}

#[test]
fn exempt_addresses_have_no_limits() {
    let limits = Limits { address_requests_per_minute_max: 5, ..Limits::default() };
    let mut runtime = runtime(Hibernates::Never, limits);
    let refused_of = |runtime: &mut Runtime, from: &str| {
        let socket = connect(runtime, from).unwrap();
        for _ in 0..10 {
            runtime.text(socket.key, r#"["REQ","a",{"ids":[]}]"#);
            runtime.drive();
        }
        socket.output.borrow_mut().drain(..).filter(|frame| frame.contains("rate-limited: ")).count()
    };
    // Loopback is exempt by default.
    let _loopback = [(); 9].map(|()| connect(&mut runtime, "127.0.0.1").unwrap());
    assert_eq!((refused_of(&mut runtime, "::1"), refused_of(&mut runtime, "192.0.2.1")), (0, 5));
    assert_eq!(metric(&mut runtime, "relay_connections_of_busiest_address"), 1);

    let network = NetworkSettings {
        exempt_addresses: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
        connections_per_address_max: 1,
        ..NetworkSettings::default()
    };
    let limits = Limits { address_requests_per_minute_max: 5, ..Limits::default() };
    let mut runtime = Runtime::new(Settings { network, limits, ..Settings::default() }, Hibernates::Never);
    for from in ["192.0.2.1", "2001:db8:9::1"] {
        let _sockets = [(); 5].map(|()| connect(&mut runtime, from).unwrap());
        assert_eq!(refused_of(&mut runtime, from), 0);
    }
    let _one = connect(&mut runtime, "127.0.0.1").unwrap();
    assert_eq!(connect(&mut runtime, "127.0.0.1").err(), Some(ConnectError::AddressFull), "not in this list");
}
