//! The semantics suite.

use relay_engine::testing::semantics::run_all;

use super::world::{Hibernates, ObjectWorld};

fn check(hibernates: Hibernates) {
    let only = std::env::var("RELAY_CASE").unwrap_or_default();
    match run_all(&mut |config| Box::new(ObjectWorld::new(config, hibernates)), &only) {
        Ok(count) => assert!(count > 0, "no case is called {only:?}"),
        Err(failures) => panic!("{failures}"),
    }
}

#[test]
fn the_object() {
    check(Hibernates::Never);
}

#[test]
fn an_object_that_hibernates_all_the_time() {
    check(Hibernates::Always);
}
