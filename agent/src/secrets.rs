//! Secrets that manifests refer to by name; hosts keep them.

/// Secrets by name: on the server environment variables, or files in `agents/secrets/` of the data folder; on the edge secrets of the
/// Worker.
pub trait Secrets {
    /// The value of a secret, if there is one of that name.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Secrets for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}
