//! Each rule fails on a faulty server: the model server passes all of them, and with one fault each of them fails.

mod faults;
mod model;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use model::{Model, Setup};
use relay_conformance::{Options, TestError, Tested, report, rules, run};

/// Answers of the model come at once; this is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);

/// For faults that make the model fall silent.
const PATIENCE_OF_FAULTS: Duration = Duration::from_secs(2);

const PACE: Duration = Duration::from_millis(20);

fn options(model: &Model, private_allowed: bool, timeout: Duration) -> Options {
    Options {
        private_allowed,
        timeout,
        body_pause: PACE,
        large_blob_bytes: 300_000,
        ..Options::new(&model.url)
    }
}

fn test(setup: Setup, options: impl FnOnce(&Model) -> Options) -> Vec<Tested> {
    let model = Model::start(setup, None);
    run(&options(&model), |_| {}).unwrap()
}

/// Fails unless nothing is broken; gives the rules that were skipped.
fn expect_kept(results: &[Tested]) -> BTreeSet<&'static str> {
    let broken: Vec<&Tested> =
        results.iter().filter(|tested| matches!(tested.result, Err(TestError::Fail(_)))).collect();
    assert!(broken.is_empty(), "a correct server breaks {}:\n{}", broken.len(), report::table(results));
    results.iter().filter(|tested| tested.result.is_err()).map(|tested| tested.rule.id).collect()
}

#[test]
fn a_correct_server_keeps_every_rule() {
    let closed = Setup { private_allowed: true, private_lists: true, ..Setup::default() };
    let skipped = expect_kept(&test(closed, |model| options(model, true, PATIENCE)));
    let refuses_private = expect_kept(&test(Setup::default(), |model| Options {
        only: Some("BUD-04".to_owned()),
        ..options(model, false, PATIENCE)
    }));
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let open = Setup { open: true, ..Setup::default() };
    let open = expect_kept(&test(open, |model| options(model, false, PATIENCE)));
    let private = Setup { private: true, ..Setup::default() };
    let private = expect_kept(&test(private, |model| options(model, false, PATIENCE)));
    let redirects = Setup { redirects: true, ..Setup::default() };
    let redirects = expect_kept(&test(redirects, |model| options(model, false, PATIENCE)));
    let priced = Setup { priced: true, ..Setup::default() };
    let priced = expect_kept(&test(priced, |model| Options {
        ids: ids(&["payment-methods", "payment-head", "payment-bad-proof", "payment-reason"]),
        ..options(model, false, PATIENCE)
    }));
    assert_eq!(priced, BTreeSet::new());
    // Every rule is tested in one of these ways.
    let never: Vec<&str> = skipped
        .into_iter()
        .filter(|id| [&refuses_private, &open, &private, &redirects].iter().all(|others| others.contains(id)))
        .filter(|id| !id.starts_with("payment-") && !ssrf_only(id, &refuses_private))
        .collect();
    assert_eq!(never, Vec::<&str>::new());
}

/// Whether a rule was tested on the server that protects its own network.
fn ssrf_only(id: &str, refuses_private: &BTreeSet<&str>) -> bool {
    id.starts_with("ssrf-") && !refuses_private.contains(id)
}

#[test]
fn each_fault_breaks_its_rules() {
    let queue = Mutex::new(faults::all());
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop();
                    let Some(case) = next else { return };
                    let model = Model::start(case.setup, Some(case.fault));
                    let results = run(
                        &Options {
                            ids: case.rules.iter().map(|id| (*id).to_owned()).collect(),
                            ..options(&model, case.setup.private_allowed, PATIENCE_OF_FAULTS)
                        },
                        |_| {},
                    )
                    .unwrap();
                    assert_eq!(results.len(), case.rules.len(), "{}: unknown rule", case.name);
                    for tested in results {
                        if !matches!(tested.result, Err(TestError::Fail(_))) {
                            let text = format!("{}: {} is {:?}", case.name, tested.rule.id, tested.result);
                            missed.lock().unwrap().push(text);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{} faults were not seen:\n{}", missed.len(), missed.join("\n"));
}

#[test]
fn each_rule_has_a_fault() {
    let broken: BTreeSet<&str> = faults::all().iter().flat_map(|case| case.rules.iter().copied()).collect();
    let unproven: Vec<&str> = rules().iter().map(|rule| rule.id).filter(|id| !broken.contains(id)).collect();
    assert_eq!(unproven, Vec::<&str>::new(), "rules that no fault breaks");
}

#[test]
fn ids_are_unique_and_sections_name_a_document() {
    let rules = rules();
    let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), rules.len());
    for rule in &rules {
        let document = rule.document();
        assert!(document.starts_with("BUD-") || document.starts_with("RFC 9"), "{}: {document}", rule.id);
        assert!(rule.section.len() > document.len(), "{}: no section", rule.id);
    }
}
