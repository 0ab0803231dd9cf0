//! Thumbnails belong to their pictures.

use relay_blossom::index::{Commit, Wanted};
use relay_blossom::{Command, Outcome, Sha256};

use crate::world::{START, World, key, picture, sha, wanted};

const THUMBNAIL: u32 = 100;

/// A picture of owner `owner` with the thumbnail, as `/media` stores them.
fn store(world: &mut World, owner: u8, n: u32) {
    world.upload(wanted(owner, THUMBNAIL, 5));
    if let Outcome::Begun { upload, .. } = world.run(Command::Begin(wanted(owner, n, 10))) {
        world.run(Command::Finish(picture(upload, n, THUMBNAIL)));
    }
}

fn owners(world: &mut World, n: u32) -> Vec<String> {
    match world.run(Command::Stat(sha(n))) {
        Outcome::Info(info) => info.owners,
        Outcome::Missing => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn thumbnail(world: &mut World, n: u32) -> Option<Sha256> {
    match world.run(Command::Get(sha(n))) {
        Outcome::Blob(blob) => blob.media?.thumbnail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thumbnail_goes_with_its_picture() {
    let mut world = World::new();
    store(&mut world, 1, 1);
    assert_eq!(thumbnail(&mut world, 1), Some(sha(THUMBNAIL)));
    world.delete(1, 1);
    assert!(!world.is_live(THUMBNAIL));
    assert_eq!(world.remove_all(), [sha(1).to_string(), sha(THUMBNAIL).to_string()]);
    assert_eq!(world.totals().bytes, 0);

    store(&mut world, 1, 1);
    world.run(Command::Ban { sha256: sha(1), reason: String::new() });
    assert!(!world.is_live(THUMBNAIL), "whoever ends it");
}

#[test]
fn a_thumbnail_of_two_pictures_goes_with_the_last_one() {
    let mut world = World::new();
    store(&mut world, 1, 1);
    store(&mut world, 1, 2);
    world.delete(1, 1);
    assert!(world.is_live(THUMBNAIL));
    world.delete(1, 2);
    assert!(!world.is_live(THUMBNAIL));
}

#[test]
fn each_owner_lets_a_thumbnail_go_with_the_picture() {
    let mut world = World::new();
    store(&mut world, 1, 1);
    world.upload(wanted(2, 1, 10));
    assert_eq!(owners(&mut world, THUMBNAIL), [key(1), key(2)], "who owns a picture owns its thumbnail");
    world.delete(1, 1);
    assert_eq!(owners(&mut world, THUMBNAIL), [key(2)]);
    world.upload(wanted(3, THUMBNAIL, 5));
    world.delete(2, 1);
    assert_eq!(owners(&mut world, THUMBNAIL), [key(3)], "somebody has uploaded it for its own sake");
}

#[test]
fn a_picture_whose_thumbnail_ends_has_none() {
    let mut world = World::new();
    store(&mut world, 1, 1);
    store(&mut world, 1, 2);
    world.delete(1, THUMBNAIL);
    assert_eq!((thumbnail(&mut world, 1), thumbnail(&mut world, 2)), (None, None));
    world.upload(wanted(1, THUMBNAIL, 5));
    world.delete(1, 1);
    assert!(world.is_live(THUMBNAIL), "it is an upload like any other");

    let (upload, _) = world.begin(wanted(1, 3, 10));
    world.delete(1, THUMBNAIL);
    world.run(Command::Finish(picture(upload, 3, THUMBNAIL)));
    assert_eq!(thumbnail(&mut world, 3), None, "it has ended while the picture was being uploaded");
}

#[test]
fn databases_without_the_table_are_opened() {
    use relay_engine::sql::SqlConn as _;
    let mut world = World::new();
    world.sqlite.exec("DROP TABLE blossom_thumbnails", &[]).unwrap();
    world.reopen();
    store(&mut world, 1, 1);
    world.delete(1, 1);
    assert!(!world.is_live(THUMBNAIL));
}

/// Regression: when a picture and its thumbnail ran out in the same sweep, the thumbnail went with the picture and was then removed once
/// more, so that the totals lost a blob of somebody else's.
#[test]
fn a_thumbnail_that_runs_out_with_its_picture_is_counted_once() {
    for (n, thumbnail) in [(1, 2), (2, 1)] {
        let mut world = World::new();
        let expires = |n, size| Wanted { expires_at: Some(world_end()), ..wanted(1, n, size) };
        world.upload(wanted(3, 9, 70));
        world.upload(expires(thumbnail, 5));
        let (upload, _) = world.begin(expires(n, 10));
        let commit = Commit { expires_at: Some(world_end()), ..picture(upload, n, thumbnail) };
        assert!(matches!(world.run(Command::Finish(commit)), Outcome::Stored(_)));
        world.now = world_end();
        world.run(Command::Sweep);
        let totals = world.totals();
        assert_eq!((totals.blobs, totals.bytes), (1, 70), "{n} {thumbnail}");
        assert_eq!(world.remove_all().len(), 2);
    }
}

fn world_end() -> u64 {
    START + 10
}
