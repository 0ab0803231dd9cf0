//! Who may do what.

use relay_engine::types::PubKey;
use relay_site::nip98::SignerTrust;
use relay_site::{AgentRoute, HttpResponse};

use crate::router::AgentEntry;

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody has signed it.
    Anyone,
    /// Signed by this key (NIP-98).
    Key(PubKey),
    /// Signed by an administrator of the relay.
    Admin(PubKey),
}

impl Caller {
    /// The key that has signed the request.
    pub fn signer(&self) -> Option<PubKey> {
        match *self {
            Caller::Anyone => None,
            Caller::Key(key) | Caller::Admin(key) => Some(key),
        }
    }

    /// Whether an administrator asks.
    pub fn is_admin(&self) -> bool {
        matches!(self, Caller::Admin(_))
    }
}

/// What a request may see or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// All of it.
    Everything,
    /// What concerns this customer.
    OfCustomer(PubKey),
}

/// Whether `caller` has permissions that not every key has: owner, operators, administrators.
fn is_permitted(caller: Caller, agent: &AgentEntry) -> bool {
    caller.is_admin()
        || caller.signer().is_some_and(|signer| agent.owner == signer || is_operator(&signer, agent))
}

fn is_operator(key: &PubKey, agent: &AgentEntry) -> bool {
    agent.manifest.operators.contains(&key.to_string())
}

/// Which keys an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Owner, administrators, operators.
    Operator,
    /// Owner and administrators.
    Owner,
    /// Owner and administrators see all, any other key its own.
    Customer,
    /// Owner, administrators and operators see all, any other key its own.
    OperatorOrCustomer,
}

/// Whether requests to this endpoint have to be signed.
pub fn needs_signature(route: AgentRoute) -> bool {
    needs(route, None) != Needs::Nothing
}

fn needs(route: AgentRoute, command: Option<&str>) -> Needs {
    use AgentRoute as R;
    match route {
        R::List | R::ListPage | R::Show | R::Page | R::Manifest | R::Names | R::Order => Needs::Nothing,
        R::Command if matches!(command, Some("rollback" | "approve" | "decline")) => Needs::Owner,
        R::Command | R::Logs => Needs::Operator,
        R::Metrics => Needs::OperatorOrCustomer,
        R::Deploy | R::Update | R::Delete | R::Versions | R::Export | R::Import => Needs::Owner,
        R::Sessions | R::Session | R::History | R::Job | R::Memory | R::DeleteCustomer | R::Refund => {
            Needs::Customer
        }
    }
}

/// Checks permission before a host reads the body or opens an agent. `may_deploy`: whether the caller may deploy agents here
/// ([`may_deploy`](super::may_deploy)); `agent`: the one that the path names, as the router has it.
///
/// Returns [`SignerTrust::Permitted`] if the caller has permissions here that not every key has.
///
/// # Errors
/// 401, 403, and 404 if no such agent is deployed.
pub fn admit(
    route: AgentRoute,
    command: Option<&str>,
    caller: Caller,
    may_deploy: bool,
    agent: Option<&AgentEntry>,
) -> Result<SignerTrust, HttpResponse> {
    let is_permitted = match (route, agent) {
        (AgentRoute::Deploy, _) if may_deploy => true,
        (AgentRoute::Deploy, _) => {
            return Err(HttpResponse::error(403, "this key may not deploy agents here"));
        }
        (AgentRoute::List | AgentRoute::ListPage | AgentRoute::Names, _) => caller.is_admin(),
        (_, Some(agent)) => {
            check(route, command, caller, agent)?;
            is_permitted(caller, agent)
        }
        (_, None) => return Err(super::no_agent()),
    };
    Ok(if is_permitted { SignerTrust::Permitted } else { SignerTrust::Unknown })
}

/// Checks a request to an agent.
///
/// # Errors
/// 401 if it has to be signed, 403 if it is signed by another key.
pub(super) fn check(
    route: AgentRoute,
    command: Option<&str>,
    caller: Caller,
    agent: &AgentEntry,
) -> Result<Permission, HttpResponse> {
    let needs = needs(route, command);
    if needs == Needs::Nothing {
        return Ok(Permission::Everything);
    }
    let Some(signer) = caller.signer() else {
        return Err(
            HttpResponse::error(401, "authorization required (NIP-98)").with("www-authenticate", "Nostr")
        );
    };
    match needs {
        _ if caller.is_admin() || agent.owner == signer => Ok(Permission::Everything),
        Needs::Operator | Needs::OperatorOrCustomer if is_operator(&signer, agent) => {
            Ok(Permission::Everything)
        }
        Needs::Customer | Needs::OperatorOrCustomer => Ok(Permission::OfCustomer(signer)),
        _ => Err(HttpResponse::error(403, "this key is not the agent's owner")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::AgentState;
    use crate::manifest::Manifest;

    fn entry() -> AgentEntry {
        let mut manifest =
            Manifest::parse(br#"{"name":"a","handlers":[{"kind":5050,"executor":"echo"}]}"#).unwrap();
        manifest.operators = vec![key(2).to_string()];
        let (pubkey, owner, state) = (key(8), key(1), AgentState::Active);
        AgentEntry { pubkey, owner, state, version: 1, manifest, deployed_at: 0 }
    }

    fn key(n: u8) -> PubKey {
        PubKey([n; 32])
    }

    #[test]
    fn owners_operators_customers_and_strangers() {
        use AgentRoute as R;
        let (owner, operator, customer) = (Caller::Key(key(1)), Caller::Key(key(2)), Caller::Key(key(3)));
        let admin = Caller::Admin(key(9));
        let all = Ok(Permission::Everything);
        let own = Ok(Permission::OfCustomer(key(3)));
        let cases = [
            (R::Page, None, Caller::Anyone, all),
            (R::Logs, None, Caller::Anyone, Err(401)),
            (R::Logs, None, owner, all),
            (R::Logs, None, operator, all),
            (R::Logs, None, customer, Err(403)),
            (R::Logs, None, admin, all),
            (R::Command, Some("pause"), operator, all),
            (R::Command, Some("rollback"), operator, Err(403)),
            (R::Command, Some("rollback"), owner, all),
            (R::Command, Some("approve"), operator, Err(403)),
            (R::Command, Some("decline"), customer, Err(403)),
            (R::Command, Some("approve"), owner, all),
            (R::Update, None, operator, Err(403)),
            (R::Update, None, admin, all),
            (R::Export, None, customer, Err(403)),
            (R::History, None, customer, own),
            (R::History, None, operator, Ok(Permission::OfCustomer(key(2)))),
            (R::History, None, owner, all),
            (R::Metrics, None, Caller::Anyone, Err(401)),
            (R::Metrics, None, customer, own),
            (R::Metrics, None, operator, all),
            (R::Metrics, None, owner, all),
            (R::DeleteCustomer, None, customer, own),
            (R::DeleteCustomer, None, Caller::Anyone, Err(401)),
            (R::Refund, None, customer, own),
            (R::Refund, None, Caller::Anyone, Err(401)),
        ];
        let entry = entry();
        for (route, command, caller, want) in cases {
            let is = check(route, command, caller, &entry).map_err(|answer| answer.status);
            assert_eq!(is, want, "{route:?} {command:?} {caller:?}");
        }
        let permitted = [owner, operator, admin].map(|caller| is_permitted(caller, &entry));
        assert_eq!(permitted, [true; 3]);
        assert_eq!([customer, Caller::Anyone].map(|caller| is_permitted(caller, &entry)), [false; 2]);
    }
}
