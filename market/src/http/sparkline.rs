//! Sparklines: a small bar chart of a figure by day.

use std::fmt::Write as _;

use super::page::duration;
use crate::figures::DAYS;

/// Width of a bar with its gap, and of the bar; height of the picture, and of the lowest bar.
const STEP: u64 = 4;
const BAR: u64 = 3;
const HEIGHT: u64 = 24;
const LEAST: u64 = 2;

/// Bars of the days that have a value, as an SVG; `None` with fewer than two of them, which show no trend.
pub(super) fn by_day(days: &[Option<u64>; DAYS]) -> Option<String> {
    let values = days.iter().flatten();
    if values.clone().count() < 2 {
        return None;
    }
    let (lowest, highest) = (*values.clone().min()?, *values.max()?);
    let label = format!(
        "Median time by day, of the last {DAYS}: from {} to {}",
        duration(lowest).replace('\u{a0}', " "),
        duration(highest).replace('\u{a0}', " ")
    );
    let mut svg = format!(
        "<svg class=\"sparkline\" role=\"img\" aria-label=\"{label}\" viewBox=\"0 0 {} {HEIGHT}\"><title>{label}</title>",
        STEP * DAYS as u64
    );
    for (day, value) in days.iter().enumerate() {
        let Some(value) = value else { continue };
        let height = (value * HEIGHT / highest.max(1)).max(LEAST);
        let (x, y) = (STEP * day as u64, HEIGHT - height);
        let _ = write!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{BAR}\" height=\"{height}\"/>");
    }
    svg.push_str("</svg>");
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_with_results_have_bars() {
        let mut days = [None; DAYS];
        assert_eq!(by_day(&days), None);
        days[29] = Some(0);
        assert_eq!(by_day(&days), None, "one day shows no trend");
        days[0] = Some(600);
        days[10] = Some(300);
        let svg = by_day(&days).unwrap();
        assert!(svg.contains("of the last 30: from under 1 s to 10 min\""), "{svg}");
        let bar = |x: u64, height: u64| {
            format!("<rect x=\"{x}\" y=\"{}\" width=\"3\" height=\"{height}\"/>", 24 - height)
        };
        let bars = [bar(0, 24), bar(40, 12), bar(116, 2)];
        assert!(svg.ends_with(&format!("{}</svg>", bars.concat())), "{svg}");
        days = [Some(0); DAYS];
        assert_eq!(
            by_day(&days).unwrap().matches("height=\"2\"").count(),
            DAYS,
            "all the same, and nothing divided by it"
        );
    }
}
