//! Payments (BUD-07): the object of an agent of this relay makes the invoices, and says whether they are paid.

use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use js_sys::Uint8Array;
use relay_agent::identity::npub;
use relay_agent::quotes::Quotes;
use relay_engine::types::PubKey;
use relay_site::{PaymentOutcome, PaymentRequest};
use worker::{Env, Error, Method, Request, RequestInit};

use crate::agent::message::PAYMENT_PATH;
use crate::settings::Settings;
use crate::worker::agent::AGENT;
use crate::worker::shards::stub_of;

/// Unpaid invoices by address, as far as this isolate has seen them.
static QUOTES: LazyLock<Mutex<Quotes>> = LazyLock::new(Mutex::default);

/// Asks the agent, if the client's address may ask for another invoice.
pub(super) async fn pay(
    env: &Env,
    settings: &Settings,
    request: &PaymentRequest,
    from: Option<&str>,
    now: u64,
) -> PaymentOutcome {
    let payment = &settings.blossom.payment;
    let Some(pubkey) = payment.pubkey else {
        return PaymentOutcome::Unavailable("this relay has no agent that is paid".to_owned());
    };
    let address: Option<IpAddr> = from.and_then(|from| from.parse().ok());
    let address = address.map(Into::into);
    let quotes = || QUOTES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(outcome) = quotes().admit(address, request, payment.quotes_per_minute_max, now) {
        return outcome;
    }
    let outcome = ask(env, settings, &pubkey, request).await.unwrap_or_else(|error| {
        worker::console_error!("the agent that is paid: {error}");
        PaymentOutcome::Unavailable("the agent that is paid does not answer; try again".to_owned())
    });
    quotes().record(address, request, &outcome);
    outcome
}

async fn ask(
    env: &Env,
    settings: &Settings,
    agent: &PubKey,
    request: &PaymentRequest,
) -> Result<PaymentOutcome, Error> {
    let stub = stub_of(env, &settings.placement, AGENT, &npub(agent))?;
    let body = serde_json::to_vec(request)?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(Uint8Array::from(body.as_slice()).into()));
    let request = Request::new_with_init(&format!("https://object{PAYMENT_PATH}"), &init)?;
    let mut response = stub.fetch_with_request(request).await?;
    let body = response.bytes().await?;
    match response.status_code() {
        200 => Ok(serde_json::from_slice(&body)?),
        _ => Err(Error::RustError(String::from_utf8_lossy(&body).into_owned())),
    }
}
