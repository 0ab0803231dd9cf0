//! One filter object as a client may write it: [`wire::parse_filter`] against the reference.

use relay_engine::types::Filter;
use relay_engine::wire;

use crate::reference::reference_filter;

/// Reads `data` as a filter.
///
/// # Panics
/// If the parser and the reference disagree on whether it is one or on what it means.
pub fn filters(data: &[u8]) {
    let reference = std::str::from_utf8(data).ok().and_then(reference_filter);
    match wire::parse_filter(data) {
        Ok(filter) => {
            let (reference, values) = reference.expect("only what the reference takes is taken");
            check_filter(&filter, &reference, values);
        }
        Err(error) => {
            assert!(reference.is_none(), "a good filter is refused: {error}");
            assert!(error.at <= data.len(), "the fault is in the bytes");
            assert!(["invalid", "unsupported"].contains(&error.prefix()));
            assert!(!error.to_string().is_empty());
        }
    }
}

/// The filter that was read is the one the reference read, and normal.
pub(crate) fn check_filter(filter: &Filter, reference: &Filter, values: usize) {
    assert_eq!(filter, reference);
    let mut normal = filter.clone();
    normal.normalise();
    assert_eq!(&normal, filter, "what is read is normal");
    assert!(filter.value_count() <= values, "no value comes from nowhere");
}
