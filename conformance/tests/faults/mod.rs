//! The faults of the model, each with the rules that it breaks.

mod messages;
mod servers;

use crate::model::{Bug, Fault, Request, Response, Setup};

/// A model with one fault, and the rules that must fail on it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) setup: Setup,
    pub(crate) fault: Fault,
    pub(crate) rules: &'static [&'static str],
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let mut all = messages::all();
    all.extend(servers::all());
    all
}

pub(crate) const CLOSED: Setup = Setup {
    open: false,
    private: false,
    private_lists: false,
    private_allowed: false,
    priced: false,
    redirects: false,
};

fn bug(bug: Bug, rules: &'static [&'static str]) -> Case {
    Case { name: format!("{bug:?}"), setup: CLOSED, fault: Fault::Bug(bug), rules }
}

/// A fault in how requests are seen.
fn seen(name: &str, act: fn(&mut Request), rules: &'static [&'static str]) -> Case {
    Case { name: name.to_owned(), setup: CLOSED, fault: Fault::Request(act), rules }
}

/// A fault in what is sent.
fn sent(name: &str, act: fn(&Request, &mut Response), rules: &'static [&'static str]) -> Case {
    Case { name: name.to_owned(), setup: CLOSED, fault: Fault::Response(act), rules }
}

impl Case {
    fn on(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }
}
