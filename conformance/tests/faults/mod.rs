//! The faults of the model, each with the rules that it breaks.

mod endpoints;
mod ranges;
mod retrieval;
mod servers;
mod uploads;
mod wire;

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
    let groups =
        [retrieval::all(), ranges::all(), uploads::all(), endpoints::all(), wire::all(), servers::all()];
    groups.into_iter().flatten().collect()
}

pub(crate) const CLOSED: Setup = Setup {
    open: false,
    private: false,
    private_lists: false,
    private_allowed: false,
    priced: false,
    redirects: false,
};

/// A model that mirrors from this machine.
const MIRRORS: Setup = Setup { private_allowed: true, ..CLOSED };

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

fn is_blob(request: &Request) -> bool {
    matches!(request.method.as_str(), "GET" | "HEAD")
        && request.path.len() > 60
        && !request.path.contains("list")
}

fn is_upload(request: &Request) -> bool {
    request.method == "PUT" && request.path == "/upload"
}

fn is_listed(request: &Request) -> bool {
    request.path.starts_with("/list")
}

/// Answers with this status and no body.
fn become_status(response: &mut Response, status: u16) {
    *response = Response::error(status, "a fault");
}
