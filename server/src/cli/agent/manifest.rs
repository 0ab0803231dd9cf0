//! Reading a manifest from a file.

use std::path::Path;

use serde_json::Value;

use super::super::exit::Failure;

/// A manifest as JSON. TOML is converted; of an agent's export, the manifest is taken. The relay validates it.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Storage(format!("cannot read {}: {error}", file.display())))?;
    let is_toml = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
    parse(&text, is_toml).map_err(|words| Failure::Usage(format!("{}: {words}", file.display())))
}

fn parse(text: &str, is_toml: bool) -> Result<Vec<u8>, String> {
    let mut manifest: Value = match is_toml {
        true => toml::from_str(text).map_err(|error| error.to_string())?,
        false => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    let is_export = manifest.get("handlers").is_none() && manifest["manifest"].is_object();
    if is_export {
        manifest = manifest["manifest"].take();
    }
    Ok(manifest.to_string().into_bytes())
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
        assert_eq!(parse(&format!(r#"{{"npub":"x","manifest":{json}}}"#), false).unwrap(), want);
        assert!(parse(toml, false).is_err());
        assert!(parse("name = ", true).unwrap_err().contains("line 1"));
    }
}
