//! Preconditions and ranges of RFC 9110, for blobs that never change.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::Head;
use super::request::{blob, number};
use crate::blob::{Blob, Sha256};

/// What is sent of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConditionResult {
    /// All of it, or a range that is not empty.
    Send(Option<Range<u64>>),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416.
    Unsatisfiable,
}

/// What a request will read of a blob, as far as its head and the hash tell before the blob is looked up: for stores that look up and
/// read in one operation (R2). What is sent of it in the end is [`Body::Blob`](super::Body).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedRead {
    /// Nothing, or what only the blob itself tells.
    Nothing,
    /// All of it.
    Whole,
    /// From this byte on, to another one or the end; either may be past the end of the blob.
    From(u64, Option<u64>),
    /// As many bytes at the end, or all if it has less. Never 0.
    Last(u64),
}

/// What a request for a blob reads of it.
pub fn planned_read(head: &Head) -> PlannedRead {
    let Ok((sha256, _)) = blob(head.param.as_deref()) else { return PlannedRead::Nothing };
    let etag = etag(&sha256);
    // When it was uploaded is not known yet.
    match (&*head.method, precondition(head, &etag, None)) {
        ("GET", Some(Precondition::Met)) => wanted_range(head, &etag, None).unwrap_or(PlannedRead::Nothing),
        _ => PlannedRead::Nothing,
    }
}

/// Evaluates the conditions of a request, in the order of RFC 9110, 13.2.2.
pub(super) fn check_conditions(head: &Head, blob: &Blob) -> ConditionResult {
    let etag = etag(&blob.sha256);
    match precondition(head, &etag, Some(blob.uploaded)) {
        Some(Precondition::Failed) => return ConditionResult::Failed,
        Some(Precondition::NotModified) => return ConditionResult::NotModified,
        Some(Precondition::Met) | None => {}
    }
    // Ranges are defined for GET only.
    if head.is_head() {
        return ConditionResult::Send(None);
    }
    let wanted = wanted_range(head, &etag, Some(blob.uploaded)).unwrap_or(PlannedRead::Whole);
    wanted.of(blob.size)
}

/// Whether a blob is sent at all.
enum Precondition {
    Met,
    NotModified,
    Failed,
}

/// Evaluates preconditions; `None` if they depend on when the blob was uploaded, and that is not known.
fn precondition(head: &Head, etag: &str, uploaded: Option<u64>) -> Option<Precondition> {
    let has = |name| head.header(name).is_some();
    let lists = |name, weak| head.lines(name).any(|line| names(line, etag, weak));
    let date = |name| head.header(name).and_then(read_date);
    if has("if-match") {
        if !lists("if-match", false) {
            return Some(Precondition::Failed);
        }
    } else if let Some(date) = date("if-unmodified-since")
        && uploaded? > date
    {
        return Some(Precondition::Failed);
    }
    if has("if-none-match") {
        if lists("if-none-match", true) {
            return Some(Precondition::NotModified);
        }
    } else if let Some(date) = date("if-modified-since")
        && uploaded? <= date
    {
        return Some(Precondition::NotModified);
    }
    Some(Precondition::Met)
}

/// The range that is wanted of a blob of any size; `None` as above.
fn wanted_range(head: &Head, etag: &str, uploaded: Option<u64>) -> Option<PlannedRead> {
    let mut ranges = head.lines("range");
    let (Some(value), None) = (ranges.next(), ranges.next()) else { return Some(PlannedRead::Whole) };
    let is_fresh = match head.header("if-range") {
        Some(condition) if condition.trim() != etag => match read_date(condition) {
            Some(date) => uploaded? == date,
            None => false,
        },
        _ => true,
    };
    Some(if is_fresh { range(value) } else { PlannedRead::Whole })
}

/// The strong validator of a blob.
pub(super) fn etag(sha256: &Sha256) -> String {
    format!("\"{sha256}\"")
}

/// A time in Unix seconds as an HTTP date; none after the year 9999.
pub(super) fn date(seconds: u64) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    (seconds < YEAR_10000)
        .then(|| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn read_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Whether a list of entity tags has this one, or is `*`. Weak tags count only in a weak comparison.
fn names(list: &str, etag: &str, weak: bool) -> bool {
    let mut rest = list.trim();
    if rest == "*" {
        return true;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let Some(inner) = quoted.strip_prefix('"') else { return false };
        let Some(end) = inner.find('"') else { return false };
        if quoted[..end + 2] == *etag && (weak || !is_weak) {
            return true;
        }
        rest = &inner[end + 1..];
    }
}

/// A Range header: one range of bytes. Other units, several ranges and malformed headers are ignored.
fn range(value: &str) -> PlannedRead {
    use PlannedRead::{From, Last, Nothing, Whole};
    let Some((unit, set)) = value.split_once('=') else { return Whole };
    let Some((first, last)) = set.trim().split_once('-') else { return Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Whole;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Whole;
    }
    match (number(first), number(last)) {
        (None, None) => Whole,
        (None, Some(0)) => Nothing,
        (None, Some(count)) => Last(count),
        (Some(first), Some(last)) if last < first => Whole,
        (Some(first), last) => From(first, last),
    }
}

impl PlannedRead {
    /// The same of a blob of this size, cut at its end.
    fn of(self, size: u64) -> ConditionResult {
        match self {
            PlannedRead::Nothing => ConditionResult::Unsatisfiable,
            PlannedRead::Whole => ConditionResult::Send(None),
            // An empty blob has no last bytes.
            PlannedRead::Last(_) if size == 0 => ConditionResult::Send(None),
            PlannedRead::Last(count) => ConditionResult::Send(Some(size.saturating_sub(count)..size)),
            PlannedRead::From(first, _) if first >= size => ConditionResult::Unsatisfiable,
            PlannedRead::From(first, last) => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                ConditionResult::Send(Some(first..end))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_site::BlossomRoute;

    use super::*;

    fn head(method: &str, headers: &[(&str, &str)]) -> Head {
        Head {
            route: BlossomRoute::Blob,
            method: method.to_owned(),
            path_and_query: "/".to_owned(),
            param: None,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn blob(size: u64) -> Blob {
        let (sha256, mime) = (Sha256([0xab; 32]), "image/png".to_owned());
        Blob { sha256, size, mime, uploaded: 784_111_777, expires_at: None, media: None }
    }

    #[test]
    fn ranges_are_cut_refused_or_ignored() {
        use ConditionResult::{Send, Unsatisfiable};
        let cases = [
            ("bytes=0-9", 100, Send(Some(0..10))),
            ("bytes=0-0", 100, Send(Some(0..1))),
            ("bytes=99-99", 100, Send(Some(99..100))),
            ("bytes=10-", 100, Send(Some(10..100))),
            ("bytes=0-", 100, Send(Some(0..100))),
            ("bytes=90-1000", 100, Send(Some(90..100))),
            ("bytes=0-99999999999999999999999999", 100, Send(Some(0..100))),
            ("bytes=0-18446744073709551615", 100, Send(Some(0..100))),
            ("bytes=-10", 100, Send(Some(90..100))),
            ("bytes=-1000", 100, Send(Some(0..100))),
            ("Bytes=0-9", 100, Send(Some(0..10))),
            (" bytes = 0-9 ", 100, Send(Some(0..10))),
            ("bytes=100-", 100, Unsatisfiable),
            ("bytes=100-200", 100, Unsatisfiable),
            ("bytes=99999999999999999999999999-", 100, Unsatisfiable),
            ("bytes=-0", 100, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Send(None)),
            ("bytes=9-0", 100, Send(None)),
            ("bytes=0-1,3-4", 100, Send(None)),
            ("bytes=0-1,", 100, Send(None)),
            ("bytes=-", 100, Send(None)),
            ("bytes=", 100, Send(None)),
            ("bytes", 100, Send(None)),
            ("bytes=a-b", 100, Send(None)),
            ("bytes=0 - 9", 100, Send(None)),
            ("bytes=--5", 100, Send(None)),
            ("bytes=+1-5", 100, Send(None)),
            ("bytes=0x1-5", 100, Send(None)),
            ("items=0-9", 100, Send(None)),
            ("=0-9", 100, Send(None)),
            ("", 100, Send(None)),
        ];
        for (value, size, want) in cases {
            assert_eq!(
                check_conditions(&head("GET", &[("range", value)]), &blob(size)),
                want,
                "{value} of {size}"
            );
        }
        let whole = Send(None);
        assert_eq!(check_conditions(&head("HEAD", &[("range", "bytes=0-9")]), &blob(100)), whole);
        assert_eq!(
            check_conditions(&head("GET", &[("range", "bytes=0-1"), ("range", "bytes=3-4")]), &blob(100)),
            whole
        );
    }

    #[test]
    fn conditions_are_judged_in_order() {
        use ConditionResult::{Failed, NotModified, Send};
        let own = etag(&Sha256([0xab; 32]));
        let (own, weak) = (own.as_str(), format!("W/{own}"));
        let listed = format!("\"a,b\", {weak} ,\"c\"");
        let strong = format!("\"a,b\",{own}");
        // The blob is of the first date.
        let (same, later, earlier) = (
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Mon, 07 Nov 1994 08:49:37 GMT",
            "Sat, 05 Nov 1994 08:49:37 GMT",
        );
        let range = ("range", "bytes=0-9");
        let part = Send(Some(0..10));
        let cases: [(&[(&str, &str)], ConditionResult); 27] = [
            (&[], Send(None)),
            (&[("if-none-match", own)], NotModified),
            (&[("if-none-match", &weak)], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", &listed)], NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", own)], NotModified),
            (&[("if-none-match", "\"x\"")], Send(None)),
            (&[("if-none-match", own.trim_matches('"'))], Send(None)),
            (&[("if-none-match", "\"")], Send(None)),
            (&[("if-none-match", own), range], NotModified),
            (&[("if-match", own)], Send(None)),
            (&[("if-match", &strong)], Send(None)),
            (&[("if-match", "*")], Send(None)),
            (&[("if-match", &weak)], Failed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "\"x\""), ("if-none-match", own)], Failed),
            (&[("if-unmodified-since", earlier)], Failed),
            (&[("if-unmodified-since", same)], Send(None)),
            (&[("if-modified-since", same)], NotModified),
            (&[("if-modified-since", earlier)], Send(None)),
            (&[("if-modified-since", "yesterday")], Send(None)),
            (&[("if-modified-since", later), ("if-none-match", "\"x\"")], Send(None)),
            (&[range, ("if-range", own)], part.clone()),
            (&[range, ("if-range", &weak)], Send(None)),
            (&[range, ("if-range", "\"x\"")], Send(None)),
            (&[range, ("if-range", same)], part),
            (&[range, ("if-range", later)], Send(None)),
        ];
        for (headers, want) in cases {
            assert_eq!(check_conditions(&head("GET", headers), &blob(100)), want, "{headers:?}");
        }
    }

    #[test]
    fn what_is_read_is_planned_from_the_head() {
        use PlannedRead::{From, Last, Nothing, Whole};
        let param = Sha256([0xab; 32]).to_string();
        let own = etag(&Sha256([0xab; 32]));
        let (own, date) = (own.as_str(), "Sun, 06 Nov 1994 08:49:37 GMT");
        let range = ("range", "bytes=3-9");
        let cases: [(&[(&str, &str)], PlannedRead); 20] = [
            (&[], Whole),
            (&[range], From(3, Some(9))),
            (&[("range", "bytes=3-")], From(3, None)),
            (&[("range", "bytes=-3")], Last(3)),
            (&[("range", "bytes=-0")], Nothing),
            (&[("range", "lines=1-2")], Whole),
            (&[range, ("range", "bytes=1-2")], Whole),
            (&[range, ("if-range", own)], From(3, Some(9))),
            (&[range, ("if-range", "\"x\"")], Whole),
            (&[range, ("if-range", date)], Nothing),
            (&[("if-none-match", own)], Nothing),
            (&[range, ("if-none-match", "\"x\"")], From(3, Some(9))),
            (&[("if-none-match", "\"x\""), ("if-modified-since", date)], Whole),
            (&[("if-modified-since", date)], Nothing),
            (&[("if-modified-since", "yesterday")], Whole),
            (&[("if-unmodified-since", date)], Nothing),
            (&[("if-match", own), ("if-unmodified-since", date)], Whole),
            (&[("if-match", "\"x\"")], Nothing),
            (&[("if-match", "*"), range], From(3, Some(9))),
            (&[("if-none-match", "*")], Nothing),
        ];
        for (headers, want) in cases {
            let head = Head { param: Some(format!("{param}.png")), ..head("GET", headers) };
            assert_eq!(planned_read(&head), want, "{headers:?}");
            // What is planned is never other than what is sent.
            for size in [0, 5, 100] {
                let sent = check_conditions(&head, &blob(size));
                assert!(want == Nothing || want.of(size) == sent, "{headers:?} of {size}: {sent:?}");
            }
            let head = Head { method: "HEAD".to_owned(), ..head };
            assert_eq!(planned_read(&head), Nothing, "{headers:?}");
        }
        assert_eq!(planned_read(&head("GET", &[])), Nothing, "no blob");
    }

    #[test]
    fn dates_are_written_as_http_wants_them() {
        assert_eq!(date(784_111_777).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(date(u64::MAX), None);
    }
}
