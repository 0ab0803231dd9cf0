//! Reading a manifest from a file.

use std::path::Path;

use serde_json::Value;

use super::super::exit::Failure;

/// What a file deploys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The manifest, as JSON. The relay validates it.
    pub(super) manifest: Vec<u8>,
    /// The export that it was taken from: the agent's sessions and history, to be imported.
    pub(super) export: Option<Vec<u8>>,
}

/// Reads a manifest, TOML or JSON, or an agent's export, whose current manifest is taken.
pub(super) fn read(file: &Path) -> Result<Source, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::External(format!("cannot read {}: {error}", file.display())))?;
    let is_toml = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
    parse(&text, is_toml).map_err(|words| Failure::Usage(format!("{}: {words}", file.display())))
}

fn parse(text: &str, is_toml: bool) -> Result<Source, String> {
    let mut document: Value = match is_toml {
        true => toml::from_str(text).map_err(|error| error.to_string())?,
        false => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    let bytes = |value: &Value| value.to_string().into_bytes();
    if document.get("handlers").is_some() || !document["versions"].is_array() {
        return Ok(Source { manifest: bytes(&document), export: None });
    }
    let current = document["version"].clone();
    let versions = document["versions"].as_array_mut().into_iter().flatten();
    let found = versions.into_iter().find(|version| version["version"] == current);
    let manifest =
        found.map(|version| bytes(&version["manifest"])).ok_or("the export has no current version")?;
    Ok(Source { manifest, export: Some(bytes(&document)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_json_and_exports_are_one_manifest() {
        let json = r#"{"name":"a","handlers":[{"kind":5050,"executor":"echo"}]}"#;
        let want = parse(json, false).unwrap();
        let toml = "name = \"a\"\n[[handlers]]\nkind = 5050\nexecutor = \"echo\"\n";
        assert_eq!(parse(toml, true).unwrap(), want);
        let export = format!(
            r#"{{"version":2,"versions":[{{"version":1,"manifest":{{}}}},{{"version":2,"manifest":{json}}}],"jobs":[]}}"#
        );
        let source = parse(&export, false).unwrap();
        assert_eq!(source.manifest, want.manifest);
        assert!(source.export.is_some());
        assert!(parse(r#"{"version":3,"versions":[]}"#, false).is_err());
        assert!(parse(toml, false).is_err());
        assert!(parse("name = ", true).unwrap_err().contains("line 1"));
    }
}
