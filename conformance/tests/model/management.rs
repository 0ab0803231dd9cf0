//! The model's lists, deletes and reports.

use std::time::Duration;

use serde_json::Value;

use super::blobs::hash_of;
use super::http::{Request, Response, number};
use super::tokens::{Hash, valid_event, values};
use super::uploads::is_hash;
use super::{Bug, Model};

const PAGE_MAX: usize = 1000;

fn refuse<T>(status: u16, reason: &str) -> Result<T, Box<Response>> {
    Err(Box::new(Response::error(status, reason)))
}

impl Model {
    pub(crate) fn list(&self, request: &Request) -> Result<Response, Box<Response>> {
        let key = request.path.strip_prefix("/list/").unwrap_or_default();
        if !is_hash(key) {
            return refuse(400, "no key");
        }
        if self.token(request, "list", &Hash::Any)?.is_none() && self.setup.private_lists {
            return refuse(401, "a token is needed");
        }
        let Ok(limit) = number(request.parameter("limit")) else { return refuse(400, "limit is no number") };
        let cursor = request.parameter("cursor");
        if cursor.is_some_and(|cursor| !is_hash(cursor)) {
            return refuse(400, "cursor is no hash");
        }
        let limit = limit.map_or(PAGE_MAX, |limit| (limit as usize).min(PAGE_MAX));
        let store = self.store();
        let mut all: Vec<((u64, u64), String)> = Vec::new();
        for (sha256, blob) in &store.blobs {
            let order = blob.owners.get(key).copied();
            let order = order.or((self.has(Bug::ListsEverything)).then_some((blob.uploaded, 0)));
            all.extend(order.map(|order| (order, sha256.clone())));
        }
        if self.has(Bug::ListKeepsDeleted) {
            all.extend(store.deleted.keys().map(|sha256| ((0, 0), sha256.clone())));
        }
        all.sort_unstable();
        if !self.has(Bug::ListOldestFirst) {
            all.reverse();
        }
        if self.has(Bug::ListsTwice) {
            all = all.iter().flat_map(|item| [item.clone(), item.clone()]).collect();
        }
        let start = cursor.and_then(|cursor| all.iter().position(|(_, sha256)| sha256 == cursor));
        let from = match (cursor, start) {
            (Some(_), _) if self.has(Bug::CursorIgnored) => 0,
            (Some(_), Some(at)) if self.has(Bug::CursorIncluded) => at,
            (Some(_), Some(at)) if self.has(Bug::CursorByTime) => {
                all.iter().position(|(order, _)| order.0 < all[at].0.0).unwrap_or(all.len())
            }
            (Some(_), Some(at)) => at + 1,
            (Some(_), None) => all.len(),
            (None, _) => 0,
        };
        let limit = if self.has(Bug::LimitIgnored) { PAGE_MAX } else { limit };
        let page: Vec<Value> =
            all.iter().skip(from).take(limit).map(|(_, sha256)| self.descriptor(&store, sha256)).collect();
        Ok(Response::json(200, &Value::Array(page)))
    }

    pub(crate) fn delete(&self, request: &Request) -> Result<Response, Box<Response>> {
        let Some(hash) = hash_of(&request.path) else { return refuse(404, "no hash") };
        let key = self.token(request, "delete", &Hash::Required(&hash))?;
        let anybody = self.has(Bug::DeletesForStrangers) || self.has(Bug::DeletesWithoutToken);
        let Some(key) = key.or(anybody.then(String::new)) else { return refuse(401, "a token is needed") };
        let mut named = vec![hash.clone()];
        if self.has(Bug::DeletesAllX) {
            named = self.store().blobs.keys().cloned().collect();
            named.retain(|sha256| self.names(request, sha256));
        }
        let mut result = refuse(404, "no such blob");
        for sha256 in named {
            let one = self.let_go(&sha256, &key, anybody);
            if sha256 == hash {
                result = one;
            }
        }
        result
    }

    /// Whether the token names a blob.
    fn names(&self, request: &Request, sha256: &str) -> bool {
        self.token(request, "delete", &Hash::Required(sha256)).is_ok()
    }

    fn let_go(&self, hash: &str, key: &str, anybody: bool) -> Result<Response, Box<Response>> {
        if self.has(Bug::DeleteRacesOwners) {
            return Ok(self.let_go_unlocked(hash, key));
        }
        let mut store = self.store();
        let former = store.former.contains(&(hash.to_owned(), key.to_owned()));
        let Some(blob) = store.blobs.get_mut(hash) else { return refuse(404, "no such blob") };
        let is_owner =
            blob.owners.remove(key).is_some() || anybody || (former && self.has(Bug::DeletesForFormerOwners));
        if !is_owner {
            return refuse(403, "not yours");
        }
        if self.has(Bug::DeleteForgetsNothing) {
            blob.owners.insert(key.to_owned(), (0, 0));
        }
        let last = blob.owners.is_empty()
            || anybody
            || self.has(Bug::DeletesForAllOwners)
            || (former && self.has(Bug::DeletesForFormerOwners));
        let copy = blob.clone();
        store.former.push((hash.to_owned(), key.to_owned()));
        if last && !self.has(Bug::KeepsLastBytes) && !self.has(Bug::DeleteForgetsNothing) {
            store.deleted.insert(hash.to_owned(), copy);
            store.blobs.remove(hash);
            if self.has(Bug::DeleteNotAtomic) {
                drop(store);
                std::thread::sleep(Duration::from_millis(10));
                self.store().bytes.remove(hash);
            } else {
                store.bytes.remove(hash);
            }
        }
        Ok(Response::new(204))
    }

    /// Looks at the owners, and acts on what it saw later.
    fn let_go_unlocked(&self, hash: &str, key: &str) -> Response {
        let Some(mut blob) = self.store().blobs.get(hash).cloned() else {
            return Response::error(404, "no such blob");
        };
        std::thread::sleep(Duration::from_millis(3));
        blob.owners.remove(key);
        let mut store = self.store();
        if blob.owners.is_empty() {
            store.blobs.remove(hash);
            store.bytes.remove(hash);
        } else {
            store.blobs.insert(hash.to_owned(), blob);
        }
        Response::new(204)
    }

    pub(crate) fn report(&self, request: &Request) -> Response {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        if valid_event(self, &event).is_none() && !self.has(Bug::ReportUnverified) {
            return Response::error(400, "no signed event");
        }
        let named = values(&event, "x");
        if event["kind"] != 1984 || named.is_empty() || !named.iter().all(|hash| is_hash(hash)) {
            return Response::error(400, "no report");
        }
        let mut store = self.store();
        if !named.iter().any(|hash| store.blobs.contains_key(*hash)) {
            return Response::error(404, "no such blob");
        }
        if self.has(Bug::ReportRemoves) {
            for hash in named {
                store.blobs.remove(hash);
            }
        }
        Response::new(204)
    }
}
