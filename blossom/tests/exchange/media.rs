//! PUT and HEAD /media (BUD-05).

use bytes::Bytes;
use relay_blossom::Sha256;
use relay_blossom::blob::Media;
use relay_blossom::exchange::{Processed, StepError};
use relay_blossom::testing::Request;
use serde_json::json;

use crate::world::{PNG, URL, check, get, hash, host, pubkey, token, upload};

const STRIPPED: &[u8] = b"stripped";
const THUMBNAIL: &[u8] = b"small";

fn strip(bytes: &Bytes, mime: &str) -> Result<Processed, StepError> {
    assert!(bytes.starts_with(PNG) && mime == "image/png");
    Ok(Processed {
        bytes: Bytes::from_static(STRIPPED),
        mime: "image/png".to_owned(),
        media: Media {
            original: Sha256([0; 32]),
            dim: Some((4, 3)),
            blurhash: Some("L00000".to_owned()),
            thumbnail: None,
        },
        thumbnail: Some((Bytes::from_static(THUMBNAIL), "image/webp".to_owned())),
    })
}

fn put(hashes: &[Sha256]) -> Request {
    Request::new("PUT", "/media")
        .with("authorization", &token(1, "media", hashes))
        .with("content-type", "image/png")
        .body(PNG)
}

#[test]
fn a_picture_is_stored_stripped_with_a_thumbnail() {
    let mut host = host();
    host.processor = Some(strip);
    let reply = host.send(&put(&[hash(PNG)]));
    check("new", &reply, 201);
    let document = reply.json();
    assert_eq!(document["sha256"], json!(hash(STRIPPED)));
    assert_eq!(document["size"], 8);
    let tags = document["nip94"].as_array().unwrap();
    let thumb = format!("{URL}/{}", hash(THUMBNAIL));
    for tag in [
        json!(["ox", hash(PNG)]),
        json!(["x", hash(STRIPPED)]),
        json!(["dim", "4x3"]),
        json!(["blurhash", "L00000"]),
        json!(["thumb", thumb]),
    ] {
        assert!(tags.contains(&tag), "{tag} in {tags:?}");
    }
    let picture = get(&mut host, &format!("/{}", hash(STRIPPED)));
    assert_eq!(picture.body, STRIPPED);
    let link = format!("</{}>; rel=\"preview\"", hash(THUMBNAIL));
    assert_eq!(picture.header("link"), Some(link.as_str()));
    assert_eq!(get(&mut host, &format!("/{}", hash(THUMBNAIL))).header("content-type"), Some("image/webp"));
    check("the original is not kept", &get(&mut host, &format!("/{}", hash(PNG))), 404);
    check("old", &host.send(&put(&[hash(PNG)])), 200);
    assert_eq!(host.objects.len(), 2);
    // Another original of the same picture: each uploader is told of the own one.
    let other = [PNG, b"with other metadata"].concat();
    let request = Request::new("PUT", "/media")
        .with("authorization", &token(1, "media", &[hash(&other)]))
        .with("content-type", "image/png")
        .body(other.clone());
    let reply = host.send(&request);
    check("another original", &reply, 200);
    let tags = reply.json()["nip94"].clone();
    let tags = tags.as_array().unwrap();
    assert!(
        tags.contains(&json!(["ox", hash(&other)])) && tags.contains(&json!(["thumb", thumb])),
        "{tags:?}"
    );
}

#[test]
fn a_picture_is_stored_without_a_thumbnail_if_that_has_no_room() {
    let mut host = host();
    host.processor = Some(strip);
    let ban = relay_blossom::Command::Ban { sha256: hash(THUMBNAIL), reason: String::new() };
    host.index.run(host.now, ban).unwrap();
    let reply = host.send(&put(&[hash(PNG)]));
    check("stored", &reply, 201);
    assert!(!reply.json().to_string().contains("thumb"));
}

/// A picture as the server processes it.
fn process(bytes: &Bytes, mime: &str) -> Result<Processed, StepError> {
    relay_blossom::media::process(bytes, mime)
}

#[test]
fn a_real_picture_is_described_and_goes_with_its_thumbnail() {
    let noise = |x: u32, y: u32| image::Rgb([(x * y % 251) as u8, (x ^ y) as u8, (x + y) as u8]);
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(800, 600, noise).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = Bytes::from(png.into_inner());
    let mut host = host();
    host.processor = Some(process);
    let put = Request::new("PUT", "/media")
        .with("authorization", &token(1, "media", &[hash(&png)]))
        .with("content-type", "image/png")
        .body(png.clone());
    let reply = host.send(&put);
    check("new", &reply, 201);
    let document = reply.json();
    let tag = |name: &str| {
        let tags = document["nip94"].as_array().unwrap();
        tags.iter().find(|tag| tag[0] == name).map(|tag| tag[1].as_str().unwrap().to_owned()).unwrap()
    };
    assert_eq!((tag("dim"), tag("ox")), ("800x600".to_owned(), hash(&png).to_string()));
    assert_eq!(tag("blurhash").len(), 28);
    let path = format!("/{}", document["sha256"].as_str().unwrap());
    let link = get(&mut host, &path).header("link").unwrap().to_owned();
    let preview = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"preview\"").unwrap();
    assert_eq!(tag("thumb"), format!("{URL}{preview}"));
    let small = get(&mut host, preview);
    assert_eq!(small.header("content-type"), Some("image/jpeg"));
    let small = image::load_from_memory(&small.body).unwrap();
    assert_eq!((small.width(), small.height()), (512, 384));

    let token = token(1, "delete", &[document["sha256"].as_str().unwrap().parse().unwrap()]);
    let delete = Request::new("DELETE", &path).with("authorization", &token);
    check("deleted", &host.send(&delete), 204);
    check("its thumbnail too", &get(&mut host, preview), 404);
    assert!(host.objects.is_empty());
}

#[test]
fn a_thumbnail_that_no_picture_names_is_not_kept() {
    let mut host = host();
    host.processor = Some(strip);
    let ban = relay_blossom::Command::Ban { sha256: hash(STRIPPED), reason: String::new() };
    host.index.run(host.now, ban).unwrap();
    check("the picture is refused", &host.send(&put(&[hash(PNG)])), 403);
    check("so is its thumbnail", &get(&mut host, &format!("/{}", hash(THUMBNAIL))), 404);
    host.index.run(host.now, relay_blossom::Command::Unban(hash(STRIPPED))).unwrap();
    check("uploaded as it is", &host.send(&upload(1, STRIPPED)), 201);
    let reply = host.send(&put(&[hash(PNG)]));
    check("the blob that is there names none", &reply, 200);
    check("so it is not there", &get(&mut host, &format!("/{}", hash(THUMBNAIL))), 404);
    assert_eq!(host.objects.len(), 1);
}

#[test]
fn what_the_bytes_are_is_what_may_be_refused() {
    let mut host = host();
    host.processor = Some(strip);
    host.settings.deny_types = vec!["image/png".to_owned()];
    let lying = Request::new("PUT", "/media")
        .with("authorization", &token(1, "media", &[hash(PNG)]))
        .with("content-type", "image/jpeg");
    host.processor = Some(|_, _| strip(&Bytes::from_static(PNG), "image/png"));
    check("a PNG that is declared as JPEG", &host.send(&lying.body(PNG)), 415);
    assert!(host.objects.is_empty());
}

#[test]
fn what_is_refused_and_before_what() {
    let own = [hash(PNG)];
    let declared = |mime: &str| {
        Request::new("PUT", "/media")
            .with("authorization", &token(1, "media", &own))
            .with("content-type", mime)
            .body(PNG)
    };
    let cases = [
        (
            "a token to upload",
            Request::new("PUT", "/media").with("authorization", &token(1, "upload", &own)).body(PNG),
            401,
            0,
        ),
        ("no x", put(&[]), 401, 0),
        ("a hash that is not in x", put(&[hash(b"other")]).with("x-sha-256", &own[0].to_string()), 401, 0),
        ("no picture", declared("text/plain"), 415, 0),
        (
            "other bytes than X-SHA-256",
            put(&[hash(b"other")]).with("x-sha-256", &hash(b"other").to_string()),
            409,
            2,
        ),
        ("other bytes than x", put(&[hash(b"other")]), 401, 2),
        ("other bytes than two x", put(&[hash(b"other"), hash(b"third")]), 401, 2),
        ("several x", put(&[hash(b"other"), own[0]]), 201, 10),
        ("bytes that tell their type", declared("application/octet-stream"), 200, 5),
    ];
    let mut host = host();
    host.processor = Some(strip);
    for (what, request, status, steps) in cases {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps.len(), steps, "{what}: {:?}", reply.steps);
    }
    host.settings.deny_types = vec!["image/png".to_owned()];
    check("a refused type", &host.send(&put(&own)), 415);
    let reply = host.send(&declared("application/octet-stream"));
    check("a refused type that the bytes tell", &reply, 415);
    assert_eq!(reply.steps, ["Ask(Check)", "Read"]);
    host.settings.deny_types.clear();
    host.settings.media_bytes_max = 5;
    check("too long", &host.send(&put(&own)), 413);
    host.settings.media_bytes_max = 1_000;
    host.processor = Some(|_, _| Err(StepError::Unprocessable("the picture is broken".to_owned())));
    let reply = host.send(&put(&own));
    check("broken", &reply, 422);
    assert_eq!(reply.header("x-reason"), Some("the picture is broken"));
    host.settings.key_bytes_max = Some(1);
    let reply = host.send(&put(&own));
    check("no room", &reply, 429);
    assert_eq!(reply.steps, ["Ask(Check)"], "nothing is read");
}

/// Regression: 32 MiB were read into memory before the answer 422.
#[test]
fn a_host_that_cannot_process_says_so_before_it_reads() {
    let mut host = host();
    let ask = Request::new("HEAD", "/media")
        .with("authorization", &token(1, "media", &[hash(PNG)]))
        .with("x-content-length", "100");
    for request in [put(&[hash(PNG)]), ask] {
        let reply = host.send(&request);
        check("a host that cannot", &reply, 422);
        assert!(reply.steps.is_empty(), "{:?}", reply.steps);
    }
}

#[test]
fn banned_originals_are_refused() {
    let mut host = host();
    host.processor = Some(strip);
    let ban = relay_blossom::Command::Ban { sha256: hash(PNG), reason: String::new() };
    host.index.run(host.now, ban).unwrap();
    let reply = host.send(&put(&[hash(PNG)]));
    check("known", &reply, 403);
    assert_eq!(reply.steps, ["Ask(Check)"]);
    check("learnt", &host.send(&put(&[hash(PNG), hash(b"other")])), 403);
    let list = get(&mut host, &format!("/list/{}", pubkey(1)));
    assert_eq!(list.json(), json!([]));
}

#[test]
fn whether_a_picture_would_be_accepted() {
    let ask = |mime: &str, length: &str| {
        Request::new("HEAD", "/media")
            .with("authorization", &token(1, "media", &[hash(PNG)]))
            .with("x-content-type", mime)
            .with("x-content-length", length)
    };
    let mut host = host();
    host.processor = Some(strip);
    host.settings.media_bytes_max = 100;
    check("accepted", &host.send(&ask("image/png", "100")), 200);
    check("too long", &host.send(&ask("image/png", "101")), 413);
    check("no picture", &host.send(&ask("video/mp4", "100")), 415);
    let no_length = Request::new("HEAD", "/media").with("authorization", &token(1, "media", &[hash(PNG)]));
    check("no length", &host.send(&no_length), 411);
    let upload = Request::new("HEAD", "/media")
        .with("authorization", &token(1, "upload", &[hash(PNG)]))
        .with("x-content-length", "1");
    check("a token to upload", &host.send(&upload), 401);
}
