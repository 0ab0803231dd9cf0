//! Every case of the relay's meaning.

use relay_engine::testing::semantics::run_all;

use super::world::{Forgets, ObjectWorld};

fn check(forgets: Forgets) {
    let only = std::env::var("RELAY_CASE").unwrap_or_default();
    match run_all(&mut |config| Box::new(ObjectWorld::new(config, forgets)), &only) {
        Ok(count) => assert!(count > 0, "no case is called {only:?}"),
        Err(failures) => panic!("{failures}"),
    }
}

#[test]
fn the_object() {
    check(Forgets::Never);
}

#[test]
fn an_object_that_forgets_all_the_time() {
    check(Forgets::Always);
}
