//! Where calls may go: addresses in every notation, names, ports, redirects.

use bytes::Bytes;
use proptest::prelude::*;
use relay_agent::executor::{Access, HttpError, HttpEvent, HttpLimits, HttpRequest};
use relay_agent::fetch::{Forbidden, PrivateHosts, UrlInput, check_url, get, is_public, redirect};
use relay_agent::manifest::Network;

#[test]
fn only_addresses_of_the_public_internet_are_public() {
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "203.0.114.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:82b::200e",
        "2001:4860:4860::8888",
        "2001:200::1",
        "::ffff:1.1.1.1",
        "64:ff9b::8.8.8.8",
    ];
    let not_public = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    for (addresses, want) in [(&public[..], true), (&not_public[..], false)] {
        for address in addresses {
            assert_eq!(is_public(address.parse().unwrap()), want, "{address}");
        }
    }
}

proptest! {
    /// What the standard library knows to be special is never public here, mapped into IPv6 neither.
    #[test]
    fn the_standard_library_agrees(bits in any::<u32>(), high in any::<u16>(), low in any::<u64>()) {
        let address = core::net::Ipv4Addr::from(bits);
        if address.is_private() || address.is_loopback() || address.is_link_local() || address.is_broadcast()
            || address.is_documentation() || address.is_multicast() || address.is_unspecified()
        {
            prop_assert!(!is_public(address.into()), "{address}");
        }
        prop_assert_eq!(is_public(address.to_ipv6_mapped().into()), is_public(address.into()), "{}", address);
        prop_assert!(!is_public(address.to_ipv6_compatible_only().into()), "::{}", address);
        let address = core::net::Ipv6Addr::from(u128::from(high) << 112 | u128::from(low));
        if address.is_unique_local() || address.is_unicast_link_local() || address.is_multicast() {
            prop_assert!(!is_public(address.into()), "{address}");
        }
    }
}

/// `::a.b.c.d`, without `ffff`.
trait CompatibleOnly {
    fn to_ipv6_compatible_only(&self) -> core::net::Ipv6Addr;
}

impl CompatibleOnly for core::net::Ipv4Addr {
    fn to_ipv6_compatible_only(&self) -> core::net::Ipv6Addr {
        core::net::Ipv6Addr::from(u128::from(u32::from(*self)))
    }
}

fn private() -> PrivateHosts {
    PrivateHosts::parse(&[
        "127.0.0.1:11434",
        "[::1]:8080",
        "Models.Internal:443",
        "10.0.0.5:80",
        "model:9000",
    ])
    .unwrap()
}

fn refusal(url: &str, access: Access, domains: &[&str]) -> Option<String> {
    let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
    check_url(url, access, &private(), &domains).err().map(|Forbidden(why)| why)
}

#[test]
fn a_url_of_a_stranger_is_https_and_public() {
    for url in [
        "https://example.com/a?b#c",
        "https://EXAMPLE.com:443/",
        "https://example.com:8443/",
        "https://example.com./",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "https://bücher.example/",
        "https://localhost.example.com/",
        "https://notlocal.example/",
    ] {
        assert_eq!(refusal(url, Access::Public, &[]), None, "{url}");
    }
    let no_host = "not a public host";
    for (url, why) in [
        ("", "not a URL"),
        ("example.com", "not a URL"),
        ("https://", "not a URL"),
        ("https://[::1%25eth0]/", "not a URL"),
        ("https://256.1.1.1/", "not a URL"),
        ("http://example.com/", "not https"),
        ("ftp://example.com/", "not https"),
        ("file:///etc/passwd", "not https"),
        ("gopher://example.com/", "not https"),
        ("data:text/plain,hi", "not https"),
        ("javascript:alert(1)", "not https"),
        ("https://user@example.com/", "a user or password in the URL"),
        ("https://:secret@example.com/", "a user or password in the URL"),
        ("https://example.com@127.0.0.1/", "a user or password in the URL"),
        ("https://example.com:22/", "a port other than 443 and 8443"),
        ("https://example.com:80/", "a port other than 443 and 8443"),
        ("https://127.0.0.1:11434/", "a port other than 443 and 8443"),
        // One address, many notations.
        ("https://127.0.0.1/", no_host),
        ("https://127.0.0.1./", no_host),
        ("https://127.1/", no_host),
        ("https://2130706433/", no_host),
        ("https://0x7f000001/", no_host),
        ("https://0x7f.0.0.1/", no_host),
        ("https://0177.0.0.1/", no_host),
        ("https://017700000001/", no_host),
        ("https://１２７.0.0.1/", no_host),
        ("https://127。0。0。1/", no_host),
        ("https://127.0.0.1\t/", no_host),
        ("https:\\\\127.0.0.1\\", no_host),
        ("https:127.0.0.1", no_host),
        ("https://%31%32%37.0.0.1/", no_host),
        ("https://[::1]/", no_host),
        ("https://[0:0:0:0:0:0:0:1]/", no_host),
        ("https://[::ffff:127.0.0.1]/", no_host),
        ("https://[::ffff:7f00:1]/", no_host),
        ("https://[64:ff9b::127.0.0.1]/", no_host),
        ("https://[2002:7f00:1::]/", no_host),
        ("https://[fe80::1]/", no_host),
        ("https://0/", no_host),
        ("https://0.0.0.0/", no_host),
        ("https://[::]/", no_host),
        ("https://169.254.169.254/latest/meta-data/", no_host),
        ("https://100.100.100.200/", no_host),
        ("https://[fd00:ec2::254]/", no_host),
        // Names of local networks.
        ("https://localhost/", no_host),
        ("https://LOCALHOST./", no_host),
        ("https://a.localhost/", no_host),
        ("https://printer.local/", no_host),
        ("https://metadata.google.internal/", no_host),
        ("https://metadata/", no_host),
        ("https://router.lan/", no_host),
        ("https://box.home.arpa/", no_host),
        ("https://models.internal/", no_host),
        ("https://model:8443/", no_host),
        ("https://ｌｏｃａｌｈｏｓｔ/", no_host),
    ] {
        assert_eq!(refusal(url, Access::Public, &[]).as_deref(), Some(why), "{url}");
    }
}

#[test]
fn an_endpoint_of_a_manifest_may_also_be_private_where_the_operator_says_so() {
    let check = |url: &str, want: Result<bool, &str>| {
        let found = check_url(url, Access::Configured, &private(), &[]);
        let found = found.map(|to| to.is_private).map_err(|Forbidden(why)| why);
        assert_eq!(found, want.map_err(str::to_owned), "{url}");
    };
    check("https://api.example.com/v1", Ok(false));
    check("https://api.example.com:5000/v1", Ok(false));
    check("http://127.0.0.1:11434/v1", Ok(true));
    check("http://0x7f.1:11434/v1", Ok(true));
    check("https://127.0.0.1:11434/v1", Ok(true));
    check("http://[::1]:8080/", Ok(true));
    check("https://models.internal/", Ok(true));
    check("https://models.internal.:443/", Ok(true));
    check("http://10.0.0.5/", Ok(true));
    check("http://model:9000/", Ok(true));
    check("http://127.0.0.1:11435/v1", Err("not https"));
    check("https://127.0.0.1:11435/v1", Err("not a public host"));
    check("https://127.0.0.2:11434/v1", Err("not a public host"));
    check("http://[::ffff:127.0.0.1]:11434/", Err("not https"));
    check("http://models.internal:80/", Err("not https"));
    check("http://api.example.com/v1", Err("not https"));
    check("http://key@127.0.0.1:11434/", Err("a user or password in the URL"));
}

#[test]
fn private_hosts_are_hosts_with_ports() {
    for wrong in
        ["", "127.0.0.1", "localhost", ":80", "::1:80", "host:0", "host:65536", "http://host:80", "a b:80"]
    {
        let error = PrivateHosts::parse(&["ok:1", wrong]).unwrap_err();
        assert_eq!(error, format!("`{wrong}` is not a host and a port"));
    }
}

#[test]
fn an_agent_may_be_limited_to_domains() {
    let domains = ["Example.com", "1.1.1.1", "bücher.example."];
    for (url, is_allowed) in [
        ("https://example.com/", true),
        ("https://www.example.com/", true),
        ("https://www.example.com./", true),
        ("https://1.1.1.1/", true),
        ("https://xn--bcher-kva.example/", true),
        ("https://notexample.com/", false),
        ("https://example.com.evil.net/", false),
        ("https://1.0.0.1/", false),
        ("https://x.1.1.1.1.nip.io/", false),
    ] {
        assert_eq!(refusal(url, Access::Public, &domains).is_none(), is_allowed, "{url}");
    }
    // An endpoint that the manifest itself names is not a URL input.
    assert_eq!(refusal("https://api.other.net/", Access::Configured, &domains), None);
}

fn request(method: &'static str, url: &str) -> HttpRequest {
    let header = |name: &str| (name.to_owned(), "x".to_owned());
    HttpRequest {
        method,
        url: url.to_owned(),
        headers: ["accept", "authorization", "content-type", "cookie", "mcp-session-id", "x-api-key"]
            .map(header)
            .into(),
        body: if method == "POST" { Bytes::from_static(b"body") } else { Bytes::new() },
        access: Access::Configured,
        allow_domains: Vec::new(),
        limits: HttpLimits { response_bytes_max: 1, deadline: 1, redirects_max: 2 },
    }
}

/// Method, URL, names of headers, whether there is a body.
type Followed<'a> = (&'a str, &'a str, Vec<&'a str>, bool);

#[test]
fn redirects_are_followed_without_telling_secrets() {
    let all = vec!["accept", "authorization", "content-type", "cookie", "mcp-session-id", "x-api-key"];
    let without_type: Vec<&str> = all.iter().copied().filter(|name| *name != "content-type").collect();
    let here = "https://a.example/x/y";
    let cases: Vec<(&'static str, u16, Option<&str>, Option<Followed<'_>>)> = vec![
        ("GET", 302, Some("/z"), Some(("GET", "https://a.example/z", all.clone(), false))),
        ("GET", 301, Some("z?q#f"), Some(("GET", "https://a.example/x/z?q", all.clone(), false))),
        ("POST", 307, Some("/z"), Some(("POST", "https://a.example/z", all.clone(), true))),
        ("POST", 308, Some("https://a.example:443/z"), Some(("POST", "https://a.example/z", all, true))),
        ("POST", 303, Some("/z"), Some(("GET", "https://a.example/z", without_type, false))),
        ("GET", 302, Some("https://b.example/"), Some(("GET", "https://b.example/", vec!["accept"], false))),
        ("GET", 302, Some("//b.example"), Some(("GET", "https://b.example/", vec!["accept"], false))),
        ("GET", 302, Some("http://a.example/"), Some(("GET", "http://a.example/", vec!["accept"], false))),
        (
            "GET",
            302,
            Some("https://a.example:8443/"),
            Some(("GET", "https://a.example:8443/", vec!["accept"], false)),
        ),
        ("POST", 303, Some("https://b.example/"), Some(("GET", "https://b.example/", vec!["accept"], false))),
        ("POST", 307, Some("https://b.example/"), None),
        ("GET", 302, None, None),
        ("GET", 302, Some("https://"), None),
        ("GET", 200, Some("/z"), None),
        ("GET", 304, Some("/z"), None),
        ("GET", 300, Some("/z"), None),
    ];
    for (method, status, location, want) in cases {
        let next = redirect(&request(method, here), status, location);
        let found = next.as_ref().map(|next| {
            assert_eq!(next.limits.redirects_max, 1);
            let names = next.headers.iter().map(|(name, _)| name.as_str()).collect();
            (next.method, next.url.as_str(), names, !next.body.is_empty())
        });
        assert_eq!(found, want, "{method} {status} {location:?}");
    }
    let mut last = request("GET", here);
    last.limits.redirects_max = 0;
    assert_eq!(redirect(&last, 302, Some("/z")), None);
}

#[test]
fn a_page_is_a_text_of_bounded_size() {
    let network = Network { allow_domains: vec!["example.com".to_owned()], max_fetch_bytes: 7 };
    assert!(get("https://example.org/", &network, 100, 500).is_err());
    let request = get("https://example.com/a", &network, 100, 500).unwrap();
    assert_eq!((request.method, request.access), ("GET", Access::Public));
    assert_eq!(request.limits, HttpLimits { response_bytes_max: 7, deadline: 110, redirects_max: 5 });
    assert_eq!(request.allow_domains, ["example.com"]);
    assert_eq!(get("https://example.com/a", &network, 100, 105).unwrap().limits.deadline, 105);

    let head = |status, media_type: &str| {
        HttpEvent::Head(status, vec![("content-type".to_owned(), media_type.to_owned())])
    };
    let chunk = |bytes: &'static [u8]| HttpEvent::Chunk(Bytes::from_static(bytes));
    let check = |events: Vec<HttpEvent>, want: Result<&str, &str>| {
        let mut page = UrlInput::default();
        let found = events.into_iter().find_map(|event| page.handle(event)).expect("an outcome");
        assert_eq!(found, want.map(str::to_owned).map_err(str::to_owned));
    };
    for media_type in
        ["text/html; charset=utf-8", "Application/JSON", "application/feed+json", "application/rss+xml"]
    {
        check(vec![head(200, media_type), chunk(b"a\xc3"), chunk(b"\xa4"), HttpEvent::End], Ok("aä"));
    }
    check(vec![HttpEvent::Head(200, vec![]), chunk(b"\xef\xbb\xbfhi"), HttpEvent::End], Ok("hi"));
    check(vec![head(204, "text/plain"), HttpEvent::End], Ok(""));
    check(vec![head(404, "text/plain")], Err("the URL answers with status 404"));
    check(vec![head(302, "text/plain")], Err("the URL answers with status 302"));
    check(vec![head(200, "image/png")], Err("the URL does not serve a text"));
    check(
        vec![head(200, "text/plain"), chunk(b"\xff"), HttpEvent::End],
        Err("the text of the URL is not UTF-8"),
    );
    let secret = HttpError::Forbidden("10.0.0.7 is not public".to_owned());
    check(vec![HttpEvent::Failed(secret)], Err("the URL leads to an address that is not allowed"));
    check(vec![HttpEvent::Failed(HttpError::Timeout)], Err("the URL takes too long"));
    check(
        vec![head(200, "text/plain"), HttpEvent::Failed(HttpError::TooLarge)],
        Err("the text of the URL is too large"),
    );
}

#[test]
fn blobs_of_the_hosts_own_server_are_told_from_other_urls() {
    use relay_agent::fetch::own_blob;
    let hash = "0a".repeat(32);
    let check = |base: &str, allow: &[String], url: &str, want: bool| {
        let found = own_blob(&url.replace("HASH", &hash), base, allow);
        assert_eq!(found.as_deref(), want.then_some(&*hash), "{base} {allow:?} {url}");
    };
    for (url, want) in [
        ("https://relay.example/HASH", true),
        ("https://relay.example:443/HASH.txt", true),
        ("https://RELAY.example./HASH.tar.gz?x=y", true),
        ("http://relay.example/HASH", false),
        ("https://relay.example:8443/HASH", false),
        ("https://relay.example.evil.example/HASH", false),
        ("https://user@relay.example/HASH", false),
        ("https://relay.example/a/HASH", false),
        ("https://relay.example/HASH/a", false),
        ("https://relay.example//HASH", false),
        ("https://relay.example/HASH0", false),
        ("https://relay.example/", false),
        ("https://other.example/HASH", false),
        ("HASH", false),
    ] {
        check("https://relay.example", &[], url, want);
    }
    check("https://relay.example", &[], &format!("https://relay.example/{}", hash.to_uppercase()), false);
    check("https://relay.example/sub", &[], "https://relay.example/sub/HASH", true);
    check("https://relay.example/sub", &[], "https://relay.example/HASH", false);
    for (url, want) in [
        ("http://127.0.0.1:7777/HASH.txt", true),
        ("http://localhost:7777/HASH.txt", true),
        ("http://[::1]:7777/HASH.txt", true),
        ("http://127.0.0.1:7778/HASH.txt", false),
        ("http://10.0.0.1:7777/HASH.txt", false),
    ] {
        check("http://127.0.0.1:7777", &[], url, want);
    }
    check("https://relay.example", &["example".to_owned()], "https://relay.example/HASH", true);
    check("https://relay.example", &["other.example".to_owned()], "https://relay.example/HASH", false);
}
