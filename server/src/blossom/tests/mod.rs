//! Blossom beside a relay of this process, without HTTP: exchanges are carried out by [`Blossom::carry_out`], and bodies are bytes.

mod addresses;
mod model;
mod payments;

use std::path::Path;
use std::sync::Arc;

use relay_blossom::exchange::{Exchange, Head, Input, Response, Step, StepError, path_param};
use relay_blossom::testing::Request;
use relay_engine::verify::Libsecp256k1;
use relay_site::blossom::BlossomSettings;
use relay_site::{FEATURES, Route, Table};

use super::index::IndexHandle;
use super::store::BlobStore;
use super::{Blossom, RequestOrigin};
use crate::agents::http::Client;
use crate::config::Settings;
use crate::embed::Server;

const URL: &str = "https://relay.test";

/// A relay without blobs of its own.
fn relay(data: &Path) -> Server {
    let blossom = BlossomSettings { enabled: false, ..BlossomSettings::default() };
    let settings = Settings {
        data: data.into(),
        listen: "127.0.0.1:0".into(),
        shards: 1,
        blossom,
        ..Settings::default()
    };
    Server::start(settings).unwrap()
}

/// Blobs in a folder.
fn blossom(
    relay: &Server,
    folder: &Path,
    blossom: BlossomSettings,
    index: IndexHandle,
    client: Client,
) -> Blossom {
    let settings = Settings { data: folder.into(), blossom, ..Settings::default() };
    let bodies = BlobStore::folder(&folder.join("blobs")).unwrap();
    Blossom::with(settings, Arc::new(Libsecp256k1), relay.handle().clone(), bodies, index, client)
}

/// A request to it: its head, and its body.
struct Asked {
    head: Head,
    seen: RequestOrigin,
    body: hyper::body::Bytes,
}

impl Asked {
    fn new(request: Request) -> Self {
        let table = Table::new(FEATURES, |route| matches!(route, Route::Blossom(_)));
        let path = request.target.split('?').next().unwrap_or_default();
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let found = table.find(&request.method, path, headers.as_slice());
        let Ok(endpoint) = &found.endpoint else { panic!("{request:?}") };
        let Route::Blossom(route) = endpoint.route else { panic!("{request:?}") };
        let head = Head {
            route,
            method: request.method.clone(),
            path_and_query: request.target.clone(),
            param: path_param(&found),
            headers: request.headers.clone(),
        };
        let seen = RequestOrigin { base_url: URL.into(), is_local: true, url: Ok(URL.into()), client: None };
        Asked { head, seen, body: request.body }
    }

    /// The response. Before each step something may happen: then a body that is being received ends early.
    async fn answer(self, blossom: &Blossom, mut before: impl AsyncFnMut() -> bool) -> Response {
        let Asked { head, seen, body } = self;
        let admins = blossom.admins();
        let (mut exchange, mut step) = Exchange::begin(&blossom.context(&seen, &admins), head);
        loop {
            let leaves = before().await;
            let input = match step {
                Step::Respond(response) => return response,
                Step::Read { .. } => Input::Body(body.clone()),
                Step::Receive(receive) if leaves => {
                    let mut writing = blossom.bodies.begin(&receive);
                    let half = &body[..body.len() / 2];
                    let failure = writing.write(half).await.err().unwrap_or(StepError::Incomplete);
                    writing.abort().await;
                    Input::Failed(failure)
                }
                Step::Receive(receive) => {
                    blossom.put(&body, &receive).await.map_or_else(Input::Failed, Input::Received)
                }
                step => blossom.carry_out(step, &seen, &mut None).await,
            };
            step = exchange.resume(&blossom.context(&seen, &admins), input);
        }
    }
}
