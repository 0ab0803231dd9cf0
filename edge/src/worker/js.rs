//! Bindings of workerd's APIs that the crate `worker` lacks.

use js_sys::{Array, Function, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// `DurableObjectStorage`.
    #[derive(Clone)]
    pub(super) type Storage;

    #[wasm_bindgen(method, getter)]
    pub(super) fn sql(this: &Storage) -> SqlStorage;

    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    pub(super) fn transaction_sync(
        this: &Storage,
        work: &mut dyn FnMut() -> Result<JsValue, JsValue>,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch, js_name = setAlarm)]
    pub(super) fn set_alarm(this: &Storage, unix_ms: f64) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch, js_name = deleteAll)]
    pub(super) fn delete_all(this: &Storage) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch, js_name = deleteAlarm)]
    pub(super) fn delete_alarm(this: &Storage) -> Result<Promise, JsValue>;

    /// In milliseconds since 1970, or null.
    #[wasm_bindgen(method, catch, js_name = getAlarm)]
    pub(super) fn get_alarm(this: &Storage) -> Result<Promise, JsValue>;

    /// `SqlStorage`.
    #[derive(Clone)]
    pub(super) type SqlStorage;

    #[wasm_bindgen(method, catch, variadic)]
    pub(super) fn exec(
        this: &SqlStorage,
        statement: &JsValue,
        params: &Array,
    ) -> Result<SqlStorageCursor, JsValue>;

    #[wasm_bindgen(method, catch, getter, js_name = databaseSize)]
    pub(super) fn database_size(this: &SqlStorage) -> Result<f64, JsValue>;

    pub(super) type SqlStorageCursor;

    #[wasm_bindgen(method, catch)]
    pub(super) fn raw(this: &SqlStorageCursor) -> Result<RawIterator, JsValue>;

    #[wasm_bindgen(method, getter, js_name = rowsRead)]
    pub(super) fn rows_read(this: &SqlStorageCursor) -> f64;

    #[wasm_bindgen(method, getter, js_name = rowsWritten)]
    pub(super) fn rows_written(this: &SqlStorageCursor) -> f64;

    pub(super) type RawIterator;

    #[wasm_bindgen(method, catch, js_name = toArray)]
    pub(super) fn to_array(this: &RawIterator) -> Result<Array, JsValue>;

    /// A socket that hibernates.
    #[derive(Clone)]
    pub(super) type Socket;

    #[wasm_bindgen(method, catch)]
    pub(super) fn send(this: &Socket, text: &str) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    pub(super) fn close(this: &Socket, code: u16, reason: &str) -> Result<(), JsValue>;

    #[wasm_bindgen(method, getter, js_name = bufferedAmount)]
    pub(super) fn buffered_amount(this: &Socket) -> JsValue;

    #[wasm_bindgen(method, catch, js_name = serializeAttachment)]
    pub(super) fn serialize_attachment(this: &Socket, bytes: &Uint8Array) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch, js_name = deserializeAttachment)]
    pub(super) fn deserialize_attachment(this: &Socket) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(js_name = setTimeout)]
    pub(super) fn set_timeout(callback: &Function, ms: f64) -> JsValue;

    type Crypto;

    #[wasm_bindgen(thread_local_v2, js_name = crypto)]
    static CRYPTO: Crypto;

    #[wasm_bindgen(method, catch, js_name = getRandomValues)]
    fn get_random_values(this: &Crypto, into: &Uint8Array) -> Result<JsValue, JsValue>;
}

#[cfg(feature = "libsecp256k1")]
#[wasm_bindgen]
extern "C" {
    /// The binding of Workers AI.
    pub(super) type Ai;

    #[wasm_bindgen(method, catch)]
    pub(super) fn run(this: &Ai, model: &str, input: &JsValue) -> Result<js_sys::Promise, JsValue>;
}

/// Secret random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], JsValue> {
    let array = Uint8Array::new_with_length(N as u32);
    CRYPTO.with(|crypto| crypto.get_random_values(&array))?;
    let mut bytes = [0; N];
    array.copy_to(&mut bytes);
    Ok(bytes)
}

/// The message of an exception.
pub(super) fn error_message(error: &JsValue) -> String {
    let message = error.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message()));
    message.or_else(|| error.as_string()).unwrap_or_else(|| format!("{error:?}"))
}

#[wasm_bindgen]
extern "C" {
    type Namespace;

    #[wasm_bindgen(method, catch)]
    fn jurisdiction(this: &Namespace, name: &str) -> Result<JsValue, JsValue>;
}

/// The namespace, restricted to a jurisdiction.
pub(super) fn in_jurisdiction(
    namespace: &worker::ObjectNamespace,
    name: &str,
) -> worker::Result<worker::ObjectNamespace> {
    let raw: &JsValue = namespace.as_ref();
    let within = raw.unchecked_ref::<Namespace>().jurisdiction(name)?;
    <worker::ObjectNamespace as worker::EnvBinding>::get(within)
}
