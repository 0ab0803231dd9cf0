//! Random runs of the edge's Durable Object.

#[test]
fn nothing_that_happens_to_an_object_panics() {
    let seeds: u64 = std::env::var("RELAY_EDGE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    (0..seeds).for_each(relay_fuzz::edge_seeded);
}
