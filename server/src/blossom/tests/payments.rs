//! Who asks for invoices.

use std::net::{IpAddr, Ipv4Addr};

use relay_agent::fetch::PrivateHosts;
use relay_blossom::testing::model::put;
use relay_engine::types::{ClientAddress, PubKey};
use relay_site::PaymentSettings;
use relay_site::blossom::BlossomSettings;

use super::super::index::IndexHandle;
use super::{Asked, blossom, relay};
use crate::agents::http::Client;

/// An agent that is not there is not asked more often than one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_ask_for_so_many_invoices_a_minute() {
    let data = tempfile::tempdir().unwrap();
    let relay = tokio::task::block_in_place(|| relay(data.path()));
    let payment = PaymentSettings {
        pubkey: Some(PubKey([7; 32])),
        upload_msat_per_mib: 1,
        quotes_per_minute_max: 2,
        ..PaymentSettings::default()
    };
    let settings = BlossomSettings { payment, ..BlossomSettings::default() };
    let index = IndexHandle::open(&data.path().join("blobs.sqlite"), true).unwrap();
    let client = Client::new(PrivateHosts::default()).unwrap();
    let blossom = blossom(&relay, data.path(), settings, index, client);
    let now = crate::host::now().seconds();
    let ask = async |address: Option<u8>, proof: Option<&str>| {
        let request = put(1, 3, "text/plain", now);
        let request = proof.map_or(request.clone(), |proof| request.with("x-lightning", proof));
        let mut asked = Asked::new(request);
        let address = address.map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        asked.seen.client = address.map(ClientAddress::from);
        let response = asked.answer(&blossom, async || false).await;
        let has_retry = response.headers.iter().any(|(name, _)| *name == "retry-after");
        assert!(has_retry, "{response:?}");
        response.status
    };
    // The minute may turn once.
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(ask(Some(1), None).await);
    }
    assert!(statuses.starts_with(&[503, 503]) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(ask(Some(2), None).await, 503, "another address");
    assert_eq!(ask(None, None).await, 503, "one without limits");
    assert_eq!(ask(Some(1), Some("00")).await, 503, "a proof is no question for an invoice");
    tokio::task::block_in_place(|| relay.stop()).unwrap();
}
