//! The routing table of both hosts, made of the endpoints of all [`FEATURES`](crate::FEATURES).
//!
//! Paths are matched by `matchit`, the router of axum. The methods that a path allows, and so `Allow`, HEAD, OPTIONS and
//! CORS, follow from its endpoints.

use crate::agents::AgentRoute;
use crate::blossom::BlossomRoute;
use crate::feature::Feature;
use crate::http_response::HttpResponse;
use crate::market::MarketRoute;

/// The methods that preflight responses of Blossom name, whatever the path (BUD-01).
const BLOSSOM_METHODS: &str = "GET, HEAD, PUT, DELETE, PATCH, OPTIONS";

/// What an endpoint serves; each host has a handler for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A WebSocket to a shard.
    Socket,
    /// The NIP-11 document.
    Information,
    /// The web page.
    Page,
    /// The icon.
    Icon,
    /// The health check.
    Health,
    /// Metrics for Prometheus.
    Metrics,
    /// The effective configuration, for administrators.
    Config,
    /// The page on which the admission fee is paid.
    Join,
    /// An invoice as a QR code.
    InvoiceCode,
    /// An endpoint of the agents.
    Agents(AgentRoute),
    /// An endpoint of the market.
    Market(MarketRoute),
    /// An endpoint of Blossom.
    Blossom(BlossomRoute),
}

/// A method and a path, with the conditions and bounds of the request.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// In uppercase. `GET` includes HEAD, except for a WebSocket.
    pub method: &'static str,
    /// The path; `{name}` matches a segment and `{*name}` the rest.
    pub path: &'static str,
    /// Required headers.
    pub header: HeaderCondition,
    /// What is served.
    pub route: Route,
    /// Whether pages of any origin may send the request (CORS). It holds for a path if it holds for one of its endpoints.
    pub any_origin: bool,
    /// Limits of size and time.
    pub bounds: Bounds,
}

/// Headers that a request must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    /// No condition.
    Anything,
    /// `Upgrade: websocket`.
    WebSocket,
    /// An `Accept` header that names this type.
    Type(&'static str),
}

/// Limits of size and time of a request. A platform may have narrower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// Longest time between two pieces of the body, in seconds.
    pub idle_seconds: u32,
    /// Longest time from the end of the request's head to the end of the response, in seconds.
    pub total_seconds: u32,
}

/// The headers of a request, in the representation of a host.
pub trait Headers {
    /// Whether `test` holds for a value of the header `name`, which is in lowercase.
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool;
}

impl Headers for [(&str, &str)] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.iter().any(|(other, value)| other.eq_ignore_ascii_case(name) && test(value))
    }
}

/// All endpoints, by path.
#[derive(Debug)]
pub struct Table {
    paths: matchit::Router<Path>,
}

/// The endpoints of one path.
#[derive(Debug)]
struct Path {
    endpoints: Vec<Endpoint>,
    /// Its methods, as the `Allow` header names them.
    allow: String,
    any_origin: bool,
    /// Whether Blossom is served here: BUD-01 says what its preflight responses have at least.
    has_blossom: bool,
    /// Whether the response depends on the `Accept` header.
    varies: bool,
}

/// The result of [`Table::find`].
#[derive(Debug)]
pub struct Found<'t, 'p> {
    /// The endpoint; or the response, if there is none: to OPTIONS, to a method that the path does not allow (405), to an
    /// unknown path (404). [`Found::headers`] must be added to either response.
    pub endpoint: Result<&'t Endpoint, HttpResponse>,
    path: Option<&'t Path>,
    params: Option<matchit::Params<'t, 'p>>,
}

impl Table {
    /// The endpoints of `features` whose routes this host or port serves.
    ///
    /// # Panics
    /// If two patterns of paths contradict each other.
    pub fn new(features: &[Feature], served: impl Fn(Route) -> bool) -> Self {
        let mut by_path: Vec<(&'static str, Vec<Endpoint>)> = Vec::new();
        let endpoints = features.iter().flat_map(|feature| feature.endpoints);
        for endpoint in endpoints.filter(|endpoint| served(endpoint.route)) {
            match by_path.iter_mut().find(|(path, _)| *path == endpoint.path) {
                Some((_, endpoints)) => endpoints.push(*endpoint),
                None => by_path.push((endpoint.path, vec![*endpoint])),
            }
        }
        let mut paths = matchit::Router::new();
        for (path, endpoints) in by_path {
            paths.insert(path, Path::new(endpoints)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        Table { paths }
    }

    /// Finds the endpoint of a request. `method` in uppercase; `path` as in the URL, without the query.
    pub fn find<'t, 'p>(
        &'t self,
        method: &str,
        path: &'p str,
        headers: &(impl Headers + ?Sized),
    ) -> Found<'t, 'p> {
        let Ok(matchit::Match { value: path, params }) = self.paths.at(path) else {
            return Found { endpoint: Err(HttpResponse::error(404, "not found")), path: None, params: None };
        };
        let endpoint = path.endpoints.iter().find(|endpoint| endpoint.takes(method, headers));
        let endpoint = endpoint.ok_or_else(|| match method {
            "OPTIONS" => HttpResponse::empty(204).with("allow", path.allow.clone()),
            _ => HttpResponse::error(405, "method not allowed").with("allow", path.allow.clone()),
        });
        Found { endpoint, path: Some(path), params: Some(params) }
    }
}

impl Endpoint {
    fn takes(&self, method: &str, headers: &(impl Headers + ?Sized)) -> bool {
        let is_head = method == "HEAD" && self.method == "GET" && self.header != HeaderCondition::WebSocket;
        (self.method == method || is_head)
            && match self.header {
                HeaderCondition::Anything => true,
                HeaderCondition::WebSocket => headers.any("upgrade", &mut |value| {
                    value.split(',').any(|word| word.trim().eq_ignore_ascii_case("websocket"))
                }),
                HeaderCondition::Type(wanted) => headers.any("accept", &mut |value| {
                    value
                        .as_bytes()
                        .windows(wanted.len())
                        .any(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
                }),
            }
    }
}

impl Path {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let mut methods: Vec<&str> = Vec::new();
        for endpoint in &endpoints {
            let served: &[&str] = match endpoint.method {
                "GET" => &["GET", "HEAD"],
                _ => std::slice::from_ref(&endpoint.method),
            };
            for method in served {
                if !methods.contains(method) {
                    methods.push(method);
                }
            }
        }
        methods.push("OPTIONS");
        Path {
            allow: methods.join(", "),
            any_origin: endpoints.iter().any(|endpoint| endpoint.any_origin),
            has_blossom: endpoints.iter().any(|endpoint| matches!(endpoint.route, Route::Blossom(_))),
            varies: endpoints.iter().any(|endpoint| matches!(endpoint.header, HeaderCondition::Type(_))),
            endpoints,
        }
    }
}

impl<'t> Found<'t, '_> {
    /// The value of `{name}` in the endpoint's path.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.as_ref()?.get(name)
    }

    /// Headers to add to the response: CORS and `Vary`.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &'t str)> + use<'t> {
        let path = self.path;
        // `*` does not include Authorization.
        let cors = path.filter(|path| path.any_origin).into_iter().flat_map(|path| {
            let methods = if path.has_blossom { BLOSSOM_METHODS } else { path.allow.as_str() };
            [
                ("access-control-allow-origin", "*"),
                ("access-control-allow-headers", "Authorization, *"),
                ("access-control-allow-methods", methods),
                ("access-control-expose-headers", "*"),
                ("access-control-max-age", "86400"),
            ]
        });
        // Whoever asks for a blob under a wrong path is to read why it is wrong.
        let unknown = path.is_none().then_some(("access-control-allow-origin", "*"));
        let cors = cors.chain(unknown);
        let vary = path.is_some_and(|path| path.varies).then_some(("vary", "accept"));
        cors.chain(vary)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::FEATURES;
    use crate::feature::Feature;

    /// Test cases; both hosts are tested with them too.
    const CASES: &str = include_str!("../tests/routes.json");

    #[test]
    fn requests_are_routed() {
        let table = Table::new(FEATURES, |_| true);
        let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
        for case in &cases {
            let text = |name: &str| case[name].as_str().unwrap();
            let empty = serde_json::Map::new();
            let sent: Vec<(&str, &str)> = case["headers"]
                .as_object()
                .unwrap_or(&empty)
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                .collect();
            let path = text("path").split('?').next().unwrap();
            let found = table.find(text("method"), path, sent.as_slice());
            let (route, answer) = match &found.endpoint {
                Ok(endpoint) => (format!("{:?}", endpoint.route), None),
                Err(answer) => {
                    assert_eq!(Value::from(answer.status), case["status"], "{case}");
                    ("none".to_owned(), Some(answer))
                }
            };
            assert_eq!(route, text("route"), "{case}");
            let of_answer = answer.into_iter().flat_map(|answer| &answer.headers);
            let mut headers: Vec<(&str, &str)> = of_answer.map(|(name, value)| (*name, &**value)).collect();
            headers.extend(found.headers());
            for (name, want) in case["answer"].as_object().into_iter().flatten() {
                let value =
                    headers.iter().find(|(found_name, _)| found_name == name).map(|(_, value)| *value);
                // Headers of an endpoint's own response are tested with the hosts.
                if value.is_some() || answer.is_some() {
                    assert_eq!(value, want.as_str(), "{name} of {case}");
                }
            }
        }
        let routes = ["Socket", "Information", "Page", "Icon", "Health", "Metrics", "Config", "none"];
        for route in routes {
            assert!(cases.iter().any(|case| case["route"] == route), "no case for {route}");
        }
    }

    #[test]
    fn a_feature_adds_paths_methods_and_cors() {
        const BLOB: Endpoint = Endpoint {
            method: "GET",
            path: "/{sha256}",
            header: HeaderCondition::Anything,
            route: Route::Page,
            any_origin: true,
            bounds: Bounds { body_bytes_max: 0, idle_seconds: 1, total_seconds: 1 },
        };
        const UPLOAD: Endpoint = Endpoint { method: "PUT", path: "/upload", ..BLOB };
        let delete = Endpoint { method: "DELETE", ..BLOB };
        let feature = |endpoints| Feature {
            endpoints,
            nips: |_| Vec::new(),
            settings: &[],
            section: |_| String::new(),
        };
        let endpoints: &'static [Endpoint] = vec![BLOB, delete, UPLOAD].leak();
        let relay = feature(crate::relay::FEATURE.endpoints);
        let table = Table::new(&[relay, feature(endpoints)], |route| route != Route::Metrics);
        let find = |method, path| table.find(method, path, [].as_slice());

        let found = find("GET", "/b1674191a88ec5cd");
        assert_eq!(found.endpoint.as_ref().unwrap().path, "/{sha256}");
        assert_eq!(found.param("sha256"), Some("b1674191a88ec5cd"));
        assert_eq!(find("GET", "/health").endpoint.unwrap().route, Route::Health);
        // This route is not served here, so the path matches `{sha256}`.
        assert_eq!(find("GET", "/metrics").param("sha256"), Some("metrics"));
        assert_eq!(find("DELETE", "/abc").endpoint.unwrap().method, "DELETE");
        let allow = |method, path| {
            let answer = find(method, path).endpoint.unwrap_err();
            let allow = answer.headers.iter().find(|(name, _)| *name == "allow");
            (answer.status, allow.map(|(_, value)| value.to_string()))
        };
        assert_eq!(allow("POST", "/abc"), (405, Some("GET, HEAD, DELETE, OPTIONS".into())));
        assert_eq!(allow("OPTIONS", "/upload"), (204, Some("PUT, OPTIONS".into())));
        assert_eq!(allow("GET", "/upload"), (405, Some("PUT, OPTIONS".into())));
        assert_eq!(allow("GET", "/a/b"), (404, None));
        let methods =
            |path| find("GET", path).headers().find(|(name, _)| *name == "access-control-allow-methods");
        assert_eq!(methods("/upload"), Some(("access-control-allow-methods", "PUT, OPTIONS")));
        assert_eq!(methods("/health"), None);
    }
}
