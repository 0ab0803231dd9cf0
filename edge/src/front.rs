//! What a request to the Worker is for. Decides by method, path and headers, and knows no runtime.

/// What to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A WebSocket, by a shard.
    Socket,
    /// The NIP-11 document.
    Information,
    /// The page for browsers.
    Page,
    /// Leave for other origins to ask (CORS).
    Preflight,
    /// Whether the relay works.
    Health,
    /// Numbers for Prometheus.
    Metrics,
    /// The relay's picture.
    Icon,
    /// This path takes other methods.
    MethodNotAllowed,
    /// There is nothing here.
    NotFound,
}

/// The parts of a request that decide.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// In capitals.
    pub method: &'a str,
    /// Path of the URL.
    pub path: &'a str,
    /// The `Accept` header, empty if there is none.
    pub accept: &'a str,
    /// The `Upgrade` header, empty if there is none.
    pub upgrade: &'a str,
}

impl Asked<'_> {
    /// What it is for.
    pub fn route(&self) -> Route {
        let wants_socket = self.upgrade.split(',').any(|word| word.trim().eq_ignore_ascii_case("websocket"));
        let is_read = matches!(self.method, "GET" | "HEAD");
        match self.path {
            "/" if wants_socket && self.method == "GET" => Route::Socket,
            "/" if self.method == "OPTIONS" => Route::Preflight,
            "/" if is_read && self.accept.to_ascii_lowercase().contains("application/nostr+json") => {
                Route::Information
            }
            "/" if is_read => Route::Page,
            "/health" if is_read => Route::Health,
            "/metrics" if is_read => Route::Metrics,
            "/icon.svg" | "/favicon.ico" if is_read => Route::Icon,
            "/" | "/health" | "/metrics" | "/icon.svg" | "/favicon.ico" => Route::MethodNotAllowed,
            _ => Route::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_where_they_should() {
        let cases = [
            ("GET", "/", "", "websocket", Route::Socket),
            ("GET", "/", "application/nostr+json", "h2c, WebSocket", Route::Socket),
            ("GET", "/", "application/nostr+json", "", Route::Information),
            ("HEAD", "/", "text/html, Application/Nostr+JSON;q=0.9", "", Route::Information),
            ("GET", "/", "text/html", "", Route::Page),
            ("GET", "/", "", "h2c", Route::Page),
            ("OPTIONS", "/", "", "", Route::Preflight),
            ("POST", "/", "", "websocket", Route::MethodNotAllowed),
            ("GET", "/health", "", "", Route::Health),
            ("GET", "/metrics", "", "websocket", Route::Metrics),
            ("PUT", "/metrics", "", "", Route::MethodNotAllowed),
            ("GET", "/icon.svg", "image/*", "", Route::Icon),
            ("HEAD", "/favicon.ico", "", "", Route::Icon),
            ("POST", "/icon.svg", "", "", Route::MethodNotAllowed),
            ("GET", "/else", "", "websocket", Route::NotFound),
        ];
        for (method, path, accept, upgrade, route) in cases {
            let asked = Asked { method, path, accept, upgrade };
            assert_eq!(asked.route(), route, "{asked:?}");
        }
    }
}
