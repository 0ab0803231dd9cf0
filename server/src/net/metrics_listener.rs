//! The address of its own that `/metrics` may have.

use std::sync::Arc;
use std::time::Duration;

use relay_site::{FEATURES, Route, Table};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::response::{HeaderLines, response};
use super::{deadline, http};
use crate::host::ServerState;

/// Sockets served at a time; others wait.
const SOCKETS_MAX: usize = 32;

/// Serves `/metrics`, and nothing else.
pub(crate) async fn run(host: Arc<ServerState>, listener: TcpListener) {
    let table = Arc::new(Table::new(FEATURES, |route| route == Route::Metrics));
    let permits = Arc::new(Semaphore::new(SOCKETS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "can't accept a reader of metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (host, table) = (Arc::clone(&host), Arc::clone(&table));
        tokio::spawn(async move {
            let _permit = permit;
            deadline::serve(stream, host.timeouts(), |request, deadline| {
                let (host, table) = (Arc::clone(&host), Arc::clone(&table));
                async move {
                    let (method, path) = (request.method().as_str(), request.uri().path());
                    let found = table.find(method, path, &HeaderLines(request.headers()));
                    let bounds = found.endpoint.map(|endpoint| endpoint.bounds);
                    match bounds {
                        Ok(bounds) => {
                            deadline.extend(bounds);
                            http::serve_admin_endpoint(&host, Route::Metrics, bounds, request, peer.ip())
                                .await
                        }
                        Err(answer) => response(answer),
                    }
                }
            })
            .await;
        });
    }
}
