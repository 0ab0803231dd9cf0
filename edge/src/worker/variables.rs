//! Settings from the Worker's environment.

use js_sys::Reflect;
use wasm_bindgen::JsValue;
use worker::Env;

#[cfg(feature = "libsecp256k1")]
use crate::agent::EnvSecrets;
use crate::settings::Settings;

/// Reads the variables. One whose value is an object, as that of `RELAY_CONFIG` may be, is read as JSON text.
pub(super) fn settings(env: &Env) -> Result<Settings, String> {
    Settings::load(&|name| {
        let value = Reflect::get(env, &JsValue::from_str(name)).ok()?;
        if value.is_undefined() || value.is_null() {
            return None;
        }
        value.as_string().or_else(|| js_sys::JSON::stringify(&value).ok().map(String::from))
    })
}

/// The secrets of agents, as they are now.
#[cfg(feature = "libsecp256k1")]
pub(super) fn agent_secrets(env: &Env) -> EnvSecrets {
    let names = Reflect::own_keys(env).map(|names| names.to_vec()).unwrap_or_default();
    let value = |name: &JsValue| Reflect::get(env, name).ok()?.as_string();
    EnvSecrets::new(names.iter().filter_map(|name| Some((name.as_string()?, value(name)?))))
}
