//! How much memory there is for this process, and the bounds that follow from it.

use std::fmt;
use std::path::Path;

use super::{ConfigSource, Loaded};

/// Memory that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// How much, in bytes.
    pub bytes: u64,
    /// Whether a control group says so; else it is what the machine has.
    pub is_limit: bool,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whence = if self.is_limit { "that the control group allows" } else { "that this machine has" };
        write!(f, "the {} MiB of memory {whence}", self.bytes >> 20)
    }
}

/// Limits that are derived from memory unless they are set, and by what it is divided for all shards together.
const PARTS: [(&str, u64); 2] =
    [("limits.shard_outbox_bytes_max", OUTBOX_PART), ("limits.shard_filter_bytes_max", FILTER_PART)];
const OUTBOX_PART: u64 = 8;
const FILTER_PART: u64 = 8;
/// A shard's part is no less than this, however little memory there is.
const PART_BYTES_MIN: u64 = 8 << 20;

impl Loaded {
    /// Gives bounds that are not set the part of memory that is theirs.
    pub(super) fn derive(&mut self, memory: Memory) {
        let shards = self.settings.shard_count() as u64;
        for (key, part) in PARTS {
            if self.origins.contains_key(key) {
                continue;
            }
            let bytes = (memory.bytes / part / shards).max(PART_BYTES_MIN);
            let limits = &mut self.settings.limits;
            let limit = match key {
                "limits.shard_outbox_bytes_max" => &mut limits.shard_outbox_bytes_max,
                _ => &mut limits.shard_filter_bytes_max,
            };
            *limit = usize::try_from(bytes).unwrap_or(usize::MAX);
            self.origins.insert(key.to_owned(), ConfigSource::Memory { memory, part: part * shards });
        }
    }
}

/// The memory of this process; `None` where the system does not say.
pub(crate) fn of_this_process() -> Option<Memory> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let total = total(&read(Path::new("/proc/meminfo"))?)?;
    Some(limited(total, &read(Path::new("/proc/self/cgroup")).unwrap_or_default(), &read))
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that one of the control groups around this process allows, if that is less than `total`. `cgroup` is
/// `/proc/self/cgroup`; `read` reads a file.
fn limited(total: u64, cgroup: &str, read: &dyn Fn(&Path) -> Option<String>) -> Memory {
    let mut least = Memory { bytes: total, is_limit: false };
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next(), fields.next(), fields.next().unwrap_or("/"));
        let (mount, file) = match controllers {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(names) if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be one of the host's, and what is mounted is the container's own group.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let limit = read(&Path::new(mount).join(group).join(file));
            let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(bytes) = limit.filter(|bytes| *bytes < least.bytes) {
                least = Memory { bytes, is_limit: true };
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_total_is_read() {
        assert_eq!(total("MemTotal:       24683888 kB\nMemFree:  1 kB\n"), Some(24_683_888 << 10));
        assert_eq!(total("MemFree:  1 kB\n"), None);
    }

    #[test]
    fn the_least_limit_of_the_groups_around_counts() {
        let files = BTreeMap::from([
            ("/sys/fs/cgroup/system.slice/relay.service/memory.max", "max\n"),
            ("/sys/fs/cgroup/system.slice/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "268435456\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let read = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
        let limit = |bytes| Memory { bytes, is_limit: true };
        let none = Memory { bytes: 8 << 30, is_limit: false };
        assert_eq!(limited(8 << 30, "0::/system.slice/relay.service\n", &read), limit(512 << 20));
        assert_eq!(limited(8 << 30, "0::/\n", &read), limit(1 << 30));
        assert_eq!(limited(8 << 30, "0::/elsewhere\n", &read), limit(1 << 30));
        assert_eq!(
            limited(1 << 20, "0::/\n", &read).bytes,
            1 << 20,
            "a limit above what there is limits nothing"
        );
        assert_eq!(limited(8 << 30, "5:cpu,memory:/pod\n4:pids:/\n", &read), limit(256 << 20));
        assert_eq!(limited(8 << 30, "5:memory:/\n", &read), none);
        assert_eq!(limited(8 << 30, "", &read), none);
    }

    #[test]
    fn bounds_that_are_not_set_follow_from_memory() {
        let settings = Settings { shards: 2, ..Settings::default() };
        let mut loaded = Loaded { settings, origins: BTreeMap::new() };
        let origin = ConfigSource::Env("RELAY_LIMITS__SHARD_FILTER_BYTES_MAX".into());
        loaded.origins.insert("limits.shard_filter_bytes_max".into(), origin.clone());
        loaded.settings.limits.shard_filter_bytes_max = 7;
        loaded.derive(Memory { bytes: 4 << 30, is_limit: true });
        assert_eq!(loaded.settings.limits.shard_outbox_bytes_max, 256 << 20);
        assert_eq!(loaded.settings.limits.shard_filter_bytes_max, 7);
        assert_eq!(loaded.origins["limits.shard_filter_bytes_max"], origin);
        let text = loaded.to_toml();
        let line =
            text.lines().find(|line| line.starts_with("shard_outbox_bytes_max")).expect("it is printed");
        assert_eq!(
            line,
            "shard_outbox_bytes_max = 268435456  # 1/16 of the 4096 MiB of memory that the control group allows"
        );
        let small = Memory { bytes: 64 << 20, is_limit: false };
        let mut loaded = Loaded { settings: Settings::default(), origins: BTreeMap::new() };
        loaded.derive(small);
        assert_eq!(loaded.settings.limits.shard_outbox_bytes_max, 8 << 20);
    }
}
