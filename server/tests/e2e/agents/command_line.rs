//! `relay agent`: exit codes, what is refused, and who may do what.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// Exit code and standard error.
fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn manifests_that_cannot_be_are_refused_with_the_path_of_the_field() {
    let relay = RelayProcess::start();
    let handler = "[[handlers]]\nkind = 5050\nexecutor = \"echo\"\n";
    let cases = [
        ("name = \"a\"\n".to_owned(), "handlers"),
        (format!("name = \"a\"\ncolour = \"red\"\n{handler}"), "colour"),
        (format!("name = \"\"\n{handler}"), "name"),
        ("name = \"a\"\n[[handlers]]\nkind = 4\nexecutor = \"echo\"\n".to_owned(), "handlers[0].kind"),
        ("name = \"a\"\n[[handlers]]\nkind = 5050\nexecutor = \"rm\"\n".to_owned(), "handlers[0]"),
        (format!("name = \"a\"\nidentity = {{ imported = {{ secret = \"PATH\" }} }}\n{handler}"), "identity"),
        (
            format!("name = \"a\"\nidentity = {{ imported = {{ secret = \"AGENT_ABSENT\" }} }}\n{handler}"),
            "identity",
        ),
        (format!("name = \"a\"\npayment = {{ policy = \"hold\" }}\n{handler}"), "payment"),
        (format!("name = \"a\"\nowner = \"me\"\n{handler}"), "owner"),
    ];
    for (manifest, path) in cases {
        let refused = agent(&relay, &["deploy", &written(&relay, "bad.toml", &manifest)]);
        let (code, words) = outcome(&refused);
        assert_eq!(code, 1, "{manifest}");
        assert!(words.contains(&format!("refused (400): {path}")), "{manifest}\n{words}");
    }
    assert_eq!(agent_json(&relay, &["list"])["agents"].as_array().unwrap().len(), 0);
    let broken = agent(&relay, &["deploy", &written(&relay, "broken.toml", "name = ")]);
    assert_eq!(outcome(&broken).0, 2);
    assert_eq!(outcome(&agent(&relay, &["deploy", "/nowhere/x.toml"])).0, 3);
    assert_eq!(outcome(&agent(&relay, &["show", "nobody"])).0, 1);
    assert_eq!(outcome(&agent(&relay, &["dance"])).0, 2);
}

#[test]
fn only_the_owner_deploys_and_commands() {
    let mut relay = RelayProcess::start();
    let echo = deploy(&relay, ECHO);
    let mode = std::fs::metadata(relay.data().join("owner.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let generated = agent_json(&relay, &["keygen"]);
    let stranger = written(&relay, "stranger.key", generated["nsec"].as_str().unwrap());
    let manifest = written(&relay, "other.toml", &ECHO.replace("\"echo\"\n[", "\"other\"\n["));
    let echo_again = written(&relay, "echo.toml", ECHO);
    for args in [
        ["deploy", &*manifest],
        ["deploy", &*echo_again],
        ["pause", &*echo],
        ["delete", &*echo],
        ["logs", &*echo],
        ["export", &*echo],
    ] {
        let (code, words) = outcome(&agent(&relay, &[&args[..], &["--key", &stranger]].concat()));
        assert_eq!(code, 1, "{args:?}");
        assert!(words.contains("refused (403)"), "{args:?}: {words}");
    }
    // What everybody may see.
    assert!(agent(&relay, &["show", &echo, "--key", &stranger]).status.success());
    let logs = agent(&relay, &["logs", &echo]);
    assert!(String::from_utf8_lossy(&logs.stdout).contains("version 1 deployed"));
    // A key is named where it has none, and a relay that is not there is not answered for.
    assert_eq!(outcome(&agent(&relay, &["list", "--key", &manifest])).0, 2);
    relay.kill();
    assert_eq!(outcome(&agent(&relay, &["list"])).0, 3);
}

#[test]
fn versions_are_kept_and_come_back() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    deploy(&relay, ECHO);
    let changed = format!("{ECHO}config = {{ prefix = \"> \" }}\n");
    deploy(&relay, &changed);
    let mut ask = |text| {
        let request = job(CUSTOMER, text, None).sign();
        accepted(&mut client, &request);
        result(&mut client, &request)
    };
    assert_eq!(ask("new"), "> new");
    assert_eq!(agent_json(&relay, &["rollback", "echo", "1"])["version"], 3);
    assert_eq!(ask("old"), "old");
    let versions = agent_json(&relay, &["versions", "echo"]);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    assert_eq!(outcome(&agent(&relay, &["rollback", "echo", "9"])).0, 1);
}

#[test]
fn the_owners_key_is_made_once_which_is_said_and_it_is_never_shown() {
    let relay = RelayProcess::start();
    let manifest = written(&relay, "echo.toml", ECHO);
    let deploy = |key: &[&str], secret: Option<&str>| {
        let mut command = Command::new(RELAY);
        without_relay_variables(&mut command);
        command.env_remove("NOSTR_PRIVATE_KEY").envs(secret.map(|secret| ("NOSTR_PRIVATE_KEY", secret)));
        command.args(["agent", "deploy", &manifest, "--json"]).args(key).arg("--data").arg(relay.data());
        command.args(["--url", &format!("http://{}", relay.host())]).current_dir(std::env::temp_dir());
        command.output().unwrap()
    };
    let first = deploy(&[], None);
    let file = relay.data().join("owner.key");
    let secret = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(secret.starts_with("nsec1"));
    let made = format!("made {}", file.display());
    assert!(outcome(&first).1.contains(&made), "{first:?}");
    let again = deploy(&[], None);
    assert!(!outcome(&again).1.contains(&made), "{again:?}");
    // The same key is taken from a file, and from the environment.
    let by_file = deploy(&["--key", file.to_str().unwrap()], None);
    let by_env = deploy(&["--key", "env"], Some(&secret));
    for output in [&first, &again, &by_file, &by_env] {
        assert_eq!(outcome(output).0, 0, "{output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let npub = document["npub"].as_str().unwrap();
        let pubkey = relay_agent::identity::parse_pubkey(npub).unwrap();
        assert_eq!(document["pubkey"], pubkey.to_string());
        let shown = [&*output.stdout, &*output.stderr].concat();
        assert!(!String::from_utf8_lossy(&shown).contains(&secret), "a key is shown");
    }
    assert_eq!(outcome(&deploy(&["--key", "env"], None)).0, 2);
    let (code, words) = outcome(&deploy(&["--key", "env"], Some("nsec1nonsense")));
    assert_eq!(code, 2);
    assert!(words.contains("NOSTR_PRIVATE_KEY") && !words.contains("nonsense"), "{words}");
    // Another relay's owner has another key.
    let other = RelayProcess::start();
    agent_json(&other, &["list"]);
    let secret_of_other = std::fs::read_to_string(other.data().join("owner.key")).unwrap();
    assert_ne!(secret_of_other.trim(), secret);
}
