//! Settings from the Worker's environment.

use js_sys::Reflect;
use wasm_bindgen::JsValue;
use worker::Env;

use super::blossom_object::BLOBS;
#[cfg(feature = "libsecp256k1")]
use crate::agent::EnvSecrets;
use crate::blossom::{self, BLOSSOM};
#[cfg(feature = "libsecp256k1")]
use crate::market::{self, MARKET};
use crate::settings::Settings;

/// Reads the variables. One whose value is an object, as that of `RELAY_CONFIG` may be, is read as JSON text.
pub(super) fn settings(env: &Env) -> Result<Settings, String> {
    let binding = |name: &str| {
        let value = Reflect::get(env, &JsValue::from_str(name)).ok()?;
        (!value.is_undefined() && !value.is_null()).then_some(value)
    };
    let mut settings = Settings::load(&|name| {
        let value = binding(name)?;
        value.as_string().or_else(|| js_sys::JSON::stringify(&value).ok().map(String::from))
    })?;
    // Without a bucket there are no blobs, and without an object no market.
    settings.blossom.enabled &= binding(BLOBS).is_some() && binding(BLOSSOM).is_some();
    #[cfg(feature = "libsecp256k1")]
    {
        settings.market.enabled &= binding(MARKET).is_some();
    }
    Ok(settings)
}

/// The same for an object of the relay: with the objects of this Worker that follow the relay.
pub(super) fn shard_settings(env: &Env) -> Result<Settings, String> {
    let mut settings = settings(env)?;
    if settings.blossom.enabled {
        settings.consumers.push(blossom::consumer());
    }
    #[cfg(feature = "libsecp256k1")]
    if settings.has_market() {
        let now = js_sys::Date::now() as u64 / 1_000;
        settings.consumers.push(market::consumer(&settings.policy.guarded_kinds, now));
    }
    Ok(settings)
}

/// The secrets of agents, as they are now.
#[cfg(feature = "libsecp256k1")]
pub(super) fn agent_secrets(env: &Env) -> EnvSecrets {
    let names = Reflect::own_keys(env).map(|names| names.to_vec()).unwrap_or_default();
    let value = |name: &JsValue| Reflect::get(env, name).ok()?.as_string();
    EnvSecrets::new(names.iter().filter_map(|name| Some((name.as_string()?, value(name)?))))
}
