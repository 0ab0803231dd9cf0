//! Secrets that manifests refer to by name; hosts keep them.

/// The names and values of secrets: environment variables on the server, secrets of the Worker on the edge.
pub trait Secrets {
    /// The value of a secret, if there is one of that name.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Secrets for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}
