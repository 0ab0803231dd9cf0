//! Generated events, and what the kernel counts of this process: for the examples that measure stores.

use std::path::Path;

use relay_engine::types::{Event, PubKey};

/// Authors of generated events.
pub(crate) const AUTHORS: u64 = 20_000;

/// The `n`-th event of a relay that receives one or two a second.
pub(crate) fn generated(n: u64) -> Event {
    let mix = |salt: u64| {
        let mut x = (n ^ (salt << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 31;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 29)
    };
    let skewed = |salt: u64, bound: u64| {
        let unit = (mix(salt) >> 11) as f64 / (1u64 << 53) as f64;
        (unit * unit * unit * bound as f64) as u64
    };
    let id = [mix(1), mix(2), mix(3), mix(4)].map(|part| format!("{part:016x}")).concat();
    let kind = [1, 1, 1, 1, 7, 7, 7, 6, 1984, 9735][(mix(5) % 10) as usize];
    let (mut tags, hex) =
        (Vec::new(), |part: u64| format!("{:016x}", part.wrapping_mul(0x94d0_49bb_1331_11eb)).repeat(4));
    for tag in 0..mix(6) % 4 {
        tags.push(format!(r#"["p","{}"]"#, author(skewed(7 + tag, AUTHORS))));
    }
    if mix(11) % 4 != 0 {
        tags.push(format!(r#"["e","{}","wss://relay.example/"]"#, hex(n - skewed(12, n.min(50_000)))));
    }
    if mix(13) % 2 == 0 {
        tags.push(format!(r#"["t","topic-{}"]"#, skewed(14, 3_000)));
    }
    let json = format!(
        r#"{{"id":"{id}","pubkey":"{}","created_at":{},"kind":{kind},"tags":[{}],"content":"{}","sig":"{}"}}"#,
        author(skewed(15, AUTHORS)),
        1_700_000_000 + n / 2 + mix(16) % 30,
        tags.join(","),
        "lorem ipsum ".repeat((mix(17) % 24) as usize),
        hex(mix(18)).repeat(2),
    );
    Event::from_canonical(json.into_bytes().into())
}

/// The `n`-th author.
pub(crate) fn author(n: u64) -> PubKey {
    let mut bytes = [0; 32];
    for (at, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&(n + at as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
    }
    PubKey(bytes)
}

/// CPU time of this process so far, in microseconds, from /proc.
pub(crate) fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    (ticks(11) + ticks(12)) * 10_000
}

/// Blocks of all files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").blocks() * 512).sum()
}

/// Bytes that this process has had written to the disk so far.
pub(crate) fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a count");
    line.parse().expect("a number")
}
