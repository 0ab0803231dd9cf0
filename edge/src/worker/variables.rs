//! Settings from the Worker's environment.

use js_sys::Reflect;
use wasm_bindgen::JsValue;
use worker::Env;

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
