//! Several processes on one folder, and folders that can't be written.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use relay_engine::testing::signing::{event, key};
use tempfile::TempDir;

use super::harness::{ENGINES, RELAY, RelayProcess, relay, serve, until, without_relay_variables};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Regression: of two relays that served the same folder, neither sent its subscriptions the events that the other had stored.
#[test]
fn a_second_relay_on_a_folder_is_refused_and_the_first_is_named() {
    let mut first = RelayProcess::start();
    let second = serve(&first.data(), None).output().unwrap();
    let message = stderr(&second);
    assert_eq!(second.status.code(), Some(3), "{message}");
    assert!(
        message.contains("is served already") && message.contains(&format!("process {}", first.pid())),
        "{message}"
    );
    // The first one still works, and so do commands.
    let data = first.data();
    let data = data.to_str().unwrap();
    let line = event(&key(1)).at(1_000).sign().json();
    assert!(relay(&["import", "--data", data], line.as_bytes()).status.success());
    assert_eq!(first.connect().query("{}"), [line]);
    // The lock is released when its holder ends, in whatever way.
    first.kill();
    first.restart();
    assert!(first.stop().success());
    first.restart();
}

/// Regression: live subscriptions received nothing of what was imported beside the relay that serves the folder.
#[test]
fn live_subscriptions_receive_what_other_commands_store() {
    ENGINES.iter().for_each(|engine| live_subscriptions_receive_what_is_stored_on(engine));
}

fn live_subscriptions_receive_what_is_stored_on(engine: &str) {
    let relay_process = RelayProcess::start_on(engine);
    let data = relay_process.data();
    let data = data.to_str().unwrap();
    let mut live = relay_process.connect();
    live.send(r#"["REQ","live",{"limit":0}]"#);
    live.recv_starting(r#"["EOSE""#);
    let mut client = relay_process.connect();
    for round in 0..3 {
        let note =
            |name: &str| event(&key(1)).at(1_000 + round).content(format!("{name} {round}")).sign().json();
        let imported = [note("a"), note("b")];
        assert!(relay(&["import", "--data", data], imported.join("\n").as_bytes()).status.success());
        for want in &imported {
            assert_eq!(live.recv_starting(r#"["EVENT""#), format!(r#"["EVENT","live",{want}]"#));
        }
        let published = note("published");
        assert!(client.publish(&published).0);
        assert_eq!(live.recv_starting(r#"["EVENT""#), format!(r#"["EVENT","live",{published}]"#));
    }
}

/// A process that is the first in a PID namespace of its own, as in a container. `None`, after printing that, if the machine
/// does not allow it.
fn contained(args: &[&str]) -> Option<Command> {
    let can = Command::new("unshare").args(["-p", "-f", "--mount-proc", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets nobody make a PID namespace");
        return None;
    }
    let mut command = Command::new("unshare");
    without_relay_variables(&mut command);
    command.args(["-p", "-f", "--kill-child", "--mount-proc", RELAY]).args(args);
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    Some(command)
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Regression: the only message of a command in another container was «Resource temporarily unavailable (os error 11)».
#[test]
fn a_command_in_another_pid_namespace_is_refused_with_advice() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let line = event(&key(1)).at(1_000).sign().json();
    let args = ["import", "--set", "store.engine=lmdb", "--data", data];
    assert!(relay(&args, line.as_bytes()).status.success());
    let Some(mut command) = contained(&["serve", "--listen", "127.0.0.1:0", "--data", data]) else { return };
    let _relay = Killed(command.stderr(Stdio::null()).spawn().unwrap());
    until("a serving relay", || {
        std::fs::metadata(format!("{data}/serve.lock")).is_ok_and(|file| file.len() > 0)
    });
    // It takes the lock just before it opens the database, in which it registers as process 1.
    let run = |args: &[&str]| {
        let mut output = contained(args).unwrap().output().unwrap();
        for _ in 0..100 {
            if output.status.code() == Some(3) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            output = contained(args).unwrap().output().unwrap();
        }
        output
    };
    for command in ["info", "export", "import"] {
        let output = run(&[command, "--data", data]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{command}: {message}");
        assert!(
            message.contains("another PID namespace") && message.contains("docker exec"),
            "{command}: {message}"
        );
    }
    // A second relay names the first one, whichever namespace it is in.
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
    assert!(stderr(&output).contains("is served already, by process 1 on host"), "{}", stderr(&output));
    // If process ids differ, as in one namespace, commands work.
    let output = relay(&["info", "--data", data], b"");
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Runs a shell command; `$D` is a database on a read-only file system. `None`, after printing that, if the machine does not
/// allow such a mount.
fn on_a_read_only_disk(data: &str, command: &str) -> Option<Output> {
    let script = format!("mount --bind $D $D && mount -o remount,bind,ro $D $D || exit 99; {command}");
    let run = |namespaces: &str| {
        let mut command = Command::new("unshare");
        without_relay_variables(&mut command);
        command.arg(namespaces).args(["sh", "-c", &script]).current_dir(std::env::temp_dir());
        command.env("D", data).env("R", RELAY);
        command.output().ok().filter(|output| output.status.code() != Some(99))
    };
    let output = ["-m", "-rm"].into_iter().find_map(run);
    if output.is_none() {
        println!("skipped: this machine lets nobody mount");
    }
    output
}

#[test]
fn a_read_only_folder_can_be_read() {
    for (engine, lock) in [("lmdb", "lock.mdb"), ("log", "LOCK")] {
        a_read_only_folder_is_read(engine, lock);
    }
}

fn a_read_only_folder_is_read(engine: &str, lock: &str) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let lines: String = (0..5).map(|n| event(&key(1)).at(1_000 + n).sign().json() + "\n").collect();
    let args = ["import", "--set", &format!("store.engine={engine}"), "--data", data];
    assert!(relay(&args, lines.as_bytes()).status.success());
    for with_lock in [true, false] {
        if !with_lock {
            std::fs::remove_file(format!("{data}/{lock}")).unwrap();
        }
        for (command, want) in [
            ("$R info --data $D", "events              5"),
            ("$R export --data $D", lines.as_str()),
            ("$R scan --data $D '{\"limit\":1}'", lines.lines().last().unwrap()),
            ("$R delete --data $D --dry-run '{}' 2>&1", "5 events match"),
        ] {
            let Some(output) = on_a_read_only_disk(data, command) else { return };
            assert!(output.status.success(), "{command}: {}", stderr(&output));
            assert!(String::from_utf8_lossy(&output.stdout).contains(want), "{command}");
        }
        for command in ["$R import --data $D </dev/null", "$R serve --listen 127.0.0.1:0 --data $D"] {
            let output = on_a_read_only_disk(data, command).unwrap();
            assert_eq!(output.status.code(), Some(3), "{command}");
            assert!(stderr(&output).contains("Read-only file system"), "{command}: {}", stderr(&output));
        }
    }
}

/// Without a lock, writers could not be kept from reusing pages that are read. (On files there is one on a read-only disk too.)
#[test]
fn a_read_only_folder_that_is_served_is_not_read() {
    let relay = RelayProcess::start_on("lmdb");
    let data = relay.data();
    let Some(output) = on_a_read_only_disk(data.to_str().unwrap(), "$R info --data $D") else { return };
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("is open in another process"), "{}", stderr(&output));
}
