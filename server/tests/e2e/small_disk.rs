//! A disk that is full when a database is opened: an error with a message, not the SIGBUS that LMDB's map of `lock.mdb` would
//! raise.

use std::process::Command;

use relay_engine::testing::signing::{event, key};

use super::harness::{RELAY, relay, without_relay_variables};

/// Mounts a full file system in a mount and user namespace of its own and runs a shell command there; `$R` is the relay and `$D`
/// a folder on it. `None`, after printing that, if the machine does not allow it.
fn on_a_full_disk(kind: &str, command: &str) -> Option<std::process::Output> {
    let make = match kind {
        "tmpfs" => "mount -t tmpfs -o size=1m tmpfs $M",
        "ext4" => "truncate -s 16m $M.img && mkfs.ext4 -q -m 0 $M.img && mount -o loop $M.img $M",
        other => panic!("{other}?"),
    };
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let script = format!(
        "{make} || exit 99; mkdir -p $D; cp $BACKUP $D/data.mdb || exit 98; \
         dd if=/dev/zero of=$M/ballast bs=4096 2>/dev/null; {command}"
    );
    let backup = folder.path().join("data.mdb");
    std::fs::copy(database(folder.path()).join("data.mdb"), &backup).unwrap();
    let run = |namespaces: &str| {
        let mut command = Command::new("unshare");
        without_relay_variables(&mut command);
        let command = command.arg(namespaces).args(["sh", "-c", &script]).current_dir(std::env::temp_dir());
        command.env("M", &mount).env("D", mount.join("db")).env("R", RELAY).env("BACKUP", &backup);
        command.env("RELAY_STORE__ENGINE", "lmdb");
        command.output().ok().filter(|output| output.status.code() != Some(99))
    };
    let output = ["-m", "-rm"].into_iter().find_map(run);
    if output.is_none() {
        println!("skipped: this machine lets nobody mount {kind}");
    }
    output
}

/// A small database, without its lock file.
fn database(folder: &std::path::Path) -> std::path::PathBuf {
    let data = folder.join("made");
    let line = event(&key(1)).at(1_000).content("kept").sign().json();
    let imported =
        relay(&["import", "--set", "store.engine=lmdb", "--data", data.to_str().unwrap()], line.as_bytes());
    assert!(imported.status.success());
    data
}

#[test]
fn a_full_disk_is_an_error_and_no_sigbus() {
    for kind in ["tmpfs", "ext4"] {
        for command in ["serve --listen 127.0.0.1:0", "import", "info", "export"] {
            // In a new folder, and in one without its lock file, as from a backup.
            for data in ["$D", "$M/new"] {
                if data == "$M/new" && ["info", "export"].contains(&command) {
                    continue;
                }
                let Some(output) = on_a_full_disk(kind, &format!("echo | $R {command} --data {data}")) else {
                    return;
                };
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(3), "{kind}, {command}, {data}: {stderr}");
                assert!(stderr.contains("the disk is full"), "{kind}, {command}, {data}: {stderr}");
            }
        }
        // With its lock file a database can be read even if the disk is full.
        let command = "rm $M/ballast; $R info --data $D >/dev/null || exit 97; \
                     dd if=/dev/zero of=$M/ballast bs=4096 2>/dev/null; $R export --data $D";
        let Some(output) = on_a_full_disk(kind, command) else { return };
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("kept"), "{kind}");
    }
}

/// Regression: a truncated copy raised SIGBUS as soon as the missing part was read.
#[test]
fn a_truncated_database_is_reported_as_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let lines: String = (0..300)
        .map(|n| event(&key(1)).at(1_000 + n).content("x".repeat(9_000)).sign().json() + "\n")
        .collect();
    let args = ["import", "--set", "store.engine=lmdb", "--data", data, "--no-verify"];
    assert!(relay(&args, lines.as_bytes()).status.success());
    let file = format!("{data}/data.mdb");
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for percent in [5, 30, 60, 90, 99] {
        std::fs::write(&file, &whole[..whole.len() * percent / 100]).unwrap();
        for command in ["info", "export"] {
            let output = relay(&[command, "--data", data], b"");
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 3)), "{command} at {percent} %: {:?}", output.status);
            refused += usize::from(code == Some(3));
        }
    }
    assert!(refused >= 5, "an export that lacks something fails: {refused}");
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(relay(&["export", "--data", data], b"").stdout, lines.as_bytes(), "the whole file is whole");
}
