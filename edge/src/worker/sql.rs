//! Durable Object SQLite behind the engine's [`SqlConn`].
//!
//! Integers are bound as doubles, which SQLite converts for an integer column; they stay below 2^53.
//! Statement texts are kept as JavaScript strings, so that a repeated statement is not copied again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use js_sys::{Array, ArrayBuffer, Uint8Array};
use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};
use wasm_bindgen::{JsCast, JsValue};

use super::js::{SqlStorage, SqlStorageCursor, Storage, error_message};
use crate::object::{RowCount, RowCountingConn};

/// Statement texts that are kept. A bulk statement has one for each number of rows.
const TEXTS_MAX: usize = 1_024;

#[derive(Clone)]
pub(super) struct DurableSql {
    storage: Storage,
    sql: SqlStorage,
    texts: Rc<RefCell<HashMap<Box<str>, JsValue>>>,
    rows: Rc<Cell<RowCount>>,
}

impl DurableSql {
    pub(super) fn new(storage: Storage) -> Self {
        let sql = storage.sql();
        DurableSql { storage, sql, texts: Rc::default(), rows: Rc::default() }
    }

    fn text(&self, statement: &str) -> JsValue {
        let Ok(mut texts) = self.texts.try_borrow_mut() else { return JsValue::from_str(statement) };
        if let Some(text) = texts.get(statement) {
            return text.clone();
        }
        let text = JsValue::from_str(statement);
        if texts.len() < TEXTS_MAX {
            texts.insert(statement.into(), text.clone());
        }
        text
    }

    fn run(&self, statement: &str, params: &[SqlValue<'_>]) -> Result<SqlStorageCursor, StoreError> {
        let bound = Array::new();
        for param in params {
            match param {
                SqlValue::Int(value) => bound.push(&JsValue::from_f64(*value as f64)),
                SqlValue::Blob(bytes) => bound.push(&Uint8Array::from(*bytes)),
            };
        }
        self.sql.exec(&self.text(statement), &bound).map_err(|error| failed(&error))
    }

    fn count(&self, cursor: &SqlStorageCursor) {
        let RowCount { read, written } = self.rows.get();
        let (more_read, more_written) = (cursor.rows_read() as u64, cursor.rows_written() as u64);
        self.rows.set(RowCount { read: read + more_read, written: written + more_written });
    }
}

fn failed(error: &JsValue) -> StoreError {
    let message = error_message(error);
    // The messages of SQLite, and of the platform's limit on an object's storage.
    let full = ["SQLITE_FULL", "database or disk is full", "exceeded its maximum"];
    if full.iter().any(|part| message.contains(part)) {
        StoreError::Full(message)
    } else {
        StoreError::Failed(message)
    }
}

impl RowCountingConn for DurableSql {
    fn rows(&self) -> RowCount {
        self.rows.get()
    }
}

impl SqlConn for DurableSql {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        let cursor = self.run(sql, params)?;
        self.count(&cursor);
        Ok(())
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let cursor = self.run(sql, params)?;
        let found = cursor.raw().and_then(|rows| rows.to_array()).map_err(|error| failed(&error))?;
        self.count(&cursor);
        let mut blobs: Vec<Vec<u8>> = Vec::new();
        for columns in found {
            let columns: Array = columns.unchecked_into();
            let len = columns.length() as usize;
            blobs.resize_with(len, Vec::new);
            let mut integers = vec![None; len];
            for ((place, integer), blob) in (0..).zip(&mut integers).zip(&mut blobs) {
                let value = columns.get(place);
                if let Some(number) = value.as_f64() {
                    *integer = Some(number as i64);
                } else if let Some(buffer) = value.dyn_ref::<ArrayBuffer>() {
                    let bytes = Uint8Array::new(buffer);
                    blob.resize(bytes.length() as usize, 0);
                    bytes.copy_to(blob);
                } else {
                    return Err(StoreError::Corrupt(format!("a column is {value:?}")));
                }
            }
            let values: Vec<SqlValue<'_>> = integers
                .iter()
                .zip(&blobs)
                .map(|(integer, blob)| integer.map_or(SqlValue::Blob(blob), SqlValue::Int))
                .collect();
            row(&values)?;
        }
        Ok(())
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        // An exception rolls the transaction back.
        let ran = self.storage.transaction_sync(&mut || {
            outcome = work();
            if outcome.is_ok() { Ok(JsValue::UNDEFINED) } else { Err(JsValue::from_str("rolled back")) }
        });
        outcome?;
        ran.map(drop).map_err(|error| failed(&error))
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        self.sql.database_size().map(|bytes| bytes as u64).map_err(|error| failed(&error))
    }
}
