//! A filter object: [`wire::parse_filter`] compared with the reference.

use relay_engine::types::Filter;
use relay_engine::wire;

use crate::reference::reference_filter;

/// Parses `data` as a filter.
///
/// # Panics
/// If the parser and the reference disagree about whether it is valid or about its conditions.
pub fn filters(data: &[u8]) {
    let reference = std::str::from_utf8(data).ok().and_then(reference_filter);
    match wire::parse_filter(data) {
        Ok(filter) => {
            let (reference, values) = reference.expect("what is accepted is valid by the reference");
            check_filter(&filter, &reference, values);
        }
        Err(error) => {
            assert!(reference.is_none(), "a good filter is refused: {error}");
            assert!(error.at <= data.len(), "the offset of the error is within the bytes");
            assert!(["invalid", "unsupported"].contains(&error.prefix()));
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Compares the parsed filter with the reference; it must be normalised.
pub(crate) fn check_filter(filter: &Filter, reference: &Filter, values: usize) {
    assert_eq!(filter, reference);
    let mut normal = filter.clone();
    normal.normalise();
    assert_eq!(&normal, filter, "a parsed filter is normalised");
    assert!(filter.value_count() <= values, "no more values than the text has");
}
