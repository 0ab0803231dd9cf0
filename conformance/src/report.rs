//! Results as a table grouped by document, and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::suite::{Rule, Strength, TestError, Tested};

/// `pass`, `fail` or `skip`.
#[must_use]
pub fn word(tested: &Tested) -> &'static str {
    match tested.result {
        Ok(()) => "pass",
        Err(TestError::Fail(_)) => "fail",
        Err(TestError::Skip(_)) => "skip",
    }
}

/// Whether a rule of the strengths that decide the exit code is broken.
#[must_use]
pub fn is_fatal(tested: &Tested) -> bool {
    matches!(tested.result, Err(TestError::Fail(_)))
        && matches!(tested.rule.strength, Strength::Must | Strength::Safety)
}

/// One line a rule, with what was seen below those that failed, grouped by document; then totals by strength.
#[must_use]
pub fn table(results: &[Tested]) -> String {
    let mut out = String::new();
    for document in documents(results.iter().map(|tested| &tested.rule)) {
        let _ = writeln!(out, "\n{document}");
        for tested in results.iter().filter(|tested| tested.rule.document() == document) {
            let Rule { id, strength, section, says, .. } = tested.rule;
            let place = section.strip_prefix(document).unwrap_or_default().trim();
            let _ = writeln!(out, "  {} {strength:8} {id:34} {says} [{place}]", word(tested));
            match &tested.result {
                Ok(()) => {}
                Err(TestError::Fail(seen)) => {
                    let _ = writeln!(out, "       seen: {seen}");
                }
                Err(TestError::Skip(why)) => {
                    let _ = writeln!(out, "       why: {why}");
                }
            }
        }
    }
    let _ = writeln!(out, "\n{:10} {:>6} {:>6} {:>6}", "strength", "pass", "fail", "skip");
    for strength in Strength::ALL {
        let [pass, fail, skip] = counts(results, strength);
        let _ = writeln!(out, "{strength:10} {pass:6} {fail:6} {skip:6}");
    }
    out
}

/// All results and the totals.
#[must_use]
pub fn to_json(url: &str, results: &[Tested]) -> Value {
    let rows: Vec<Value> = results
        .iter()
        .map(|tested| {
            let text = match &tested.result {
                Ok(()) => None,
                Err(TestError::Fail(text) | TestError::Skip(text)) => Some(text),
            };
            json!({
                "id": tested.rule.id, "section": tested.rule.section, "strength": tested.rule.strength,
                "says": tested.rule.says, "result": word(tested), "seen": text,
            })
        })
        .collect();
    let totals: serde_json::Map<String, Value> = Strength::ALL
        .iter()
        .map(|strength| {
            let [pass, fail, skip] = counts(results, *strength);
            (strength.to_string(), json!({"pass": pass, "fail": fail, "skip": skip}))
        })
        .collect();
    json!({"url": url, "totals": totals, "results": rows})
}

/// The rules, one a line, grouped by document.
#[must_use]
pub fn list(rules: &[Rule]) -> String {
    let mut out = String::new();
    for document in documents(rules.iter()) {
        let _ = writeln!(out, "\n{document}");
        for rule in rules.iter().filter(|rule| rule.document() == document) {
            let place = rule.section.strip_prefix(document).unwrap_or_default().trim();
            let _ = writeln!(out, "  {:8} {:34} {} [{place}]", rule.strength, rule.id, rule.says);
        }
    }
    out
}

fn counts(results: &[Tested], strength: Strength) -> [usize; 3] {
    let of = |wanted: &str| {
        let matches = |tested: &&Tested| tested.rule.strength == strength && word(tested) == wanted;
        results.iter().filter(matches).count()
    };
    [of("pass"), of("fail"), of("skip")]
}

/// The documents, sorted: the BUDs first.
fn documents<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = rules.map(Rule::document).collect();
    all.sort_unstable();
    all.dedup();
    all
}
