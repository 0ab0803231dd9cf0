//! Rows of events: the canonical JSON of events with consecutive sequence numbers, a line each. Canonical JSON holds no line
//! feed. The row's id is the sequence number of its first event. The line of a removed event is empty.

use memchr::{memchr, memchr_iter};

use crate::store::backend::Seq;

/// How many lines a row has.
pub(super) fn count(row: &[u8]) -> u64 {
    memchr_iter(b'\n', row).count() as u64
}

/// Event `seq` in the row that begins with `first`; nothing if it was removed or is not of this row.
pub(super) fn find(row: &[u8], first: Seq, seq: Seq) -> Option<&[u8]> {
    let nth = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
    let begin = match nth.checked_sub(1) {
        None => 0,
        Some(before) => memchr_iter(b'\n', row).nth(before)? + 1,
    };
    let rest = row.get(begin..)?;
    let line = &rest[..memchr(b'\n', rest)?];
    (!line.is_empty()).then_some(line)
}

/// The events of a row and their sequence numbers.
pub(super) fn events(row: &[u8], first: Seq) -> impl Iterator<Item = (Seq, &[u8])> {
    let ends = memchr_iter(b'\n', row);
    let mut begin = 0;
    ends.zip(first.0..).filter_map(move |(end, seq)| {
        let line = &row[begin..end];
        begin = end + 1;
        (!line.is_empty()).then_some((Seq(seq), line))
    })
}

/// Whether event `seq` can be added to a row that begins with `first`, has `row` so far and may have `bytes_max`.
pub(super) fn fits(row: &[u8], first: Seq, seq: Seq, json: &[u8], bytes_max: usize) -> bool {
    row.len() + json.len() < bytes_max && first.0 + count(row) == seq.0
}

/// Adds a line to a row.
pub(super) fn push(row: &mut Vec<u8>, json: &[u8]) {
    row.reserve_exact(json.len() + 1);
    row.extend_from_slice(json);
    row.push(b'\n');
}

/// A row after some of its events were removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RewrittenRow {
    pub(super) row: Vec<u8>,
    /// Whether any event is left.
    pub(super) has_events: bool,
    /// Those that were removed now.
    pub(super) removed: Vec<Seq>,
}

/// Removes the events `seqs` from a row.
pub(super) fn remove_lines(row: &[u8], first: Seq, seqs: &[Seq]) -> RewrittenRow {
    let mut left =
        RewrittenRow { row: Vec::with_capacity(row.len()), has_events: false, removed: Vec::new() };
    let mut begin = 0;
    for (end, seq) in memchr_iter(b'\n', row).zip(first.0..) {
        let line = &row[begin..end];
        begin = end + 1;
        if !line.is_empty() && seqs.contains(&Seq(seq)) {
            left.removed.push(Seq(seq));
            push(&mut left.row, b"");
        } else {
            left.has_events |= !line.is_empty();
            push(&mut left.row, line);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_events_until_they_are_removed() {
        let mut row = Vec::new();
        for (seq, json) in [(3, "three"), (4, "four"), (5, "five")] {
            assert!(row.is_empty() || fits(&row, Seq(3), Seq(seq), json.as_bytes(), 16));
            push(&mut row, json.as_bytes());
        }
        assert_eq!(row, b"three\nfour\nfive\n");
        assert!(!fits(&row, Seq(3), Seq(7), b"", 100), "six is missing");
        assert!(fits(&row, Seq(3), Seq(6), b"six", 20) && !fits(&row, Seq(3), Seq(6), b"six", 19));
        assert_eq!(count(&row), 3);
        assert_eq!(find(&row, Seq(3), Seq(3)), Some(&b"three"[..]));
        assert_eq!(find(&row, Seq(3), Seq(5)), Some(&b"five"[..]));
        assert_eq!(find(&row, Seq(3), Seq(2)), None);
        assert_eq!(find(&row, Seq(3), Seq(6)), None);

        let left = remove_lines(&row, Seq(3), &[Seq(4), Seq(9)]);
        let row = b"three\n\nfive\n".to_vec();
        assert_eq!(left, RewrittenRow { row: row.clone(), has_events: true, removed: vec![Seq(4)] });
        assert_eq!(find(&row, Seq(3), Seq(4)), None);
        assert_eq!(find(&row, Seq(3), Seq(5)), Some(&b"five"[..]));
        assert_eq!(events(&row, Seq(3)).map(|(seq, _)| seq.0).collect::<Vec<_>>(), [3, 5]);
        let left = remove_lines(&row, Seq(3), &[Seq(3), Seq(4), Seq(5)]);
        assert_eq!(left.removed, [Seq(3), Seq(5)]);
        assert_eq!((left.row.as_slice(), left.has_events), (&b"\n\n\n"[..], false));
    }
}
