//! What another relay tells about itself (NIP-11), as far as it matters to a client that copies events.

use serde_json::Value;

/// What a relay tells about itself; nothing is known of one that does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// Whether it has NIP-77, if it says which NIPs it has.
    pub negentropy: Option<bool>,
    /// `limitation.max_limit`.
    pub limit_max: Option<u32>,
    /// `limitation.max_message_length`.
    pub message_bytes_max: Option<usize>,
}

impl Information {
    /// Reads a NIP-11 document. strfry's `negentropy` counts as NIP-77.
    pub fn of(document: &Value) -> Self {
        let nips = document["supported_nips"].as_array();
        let has_nip = nips.map(|nips| nips.iter().any(|nip| *nip == 77));
        let has_field = document["negentropy"].as_u64().is_some_and(|version| version > 0);
        let limitation = |name: &str| document["limitation"][name].as_u64().filter(|limit| *limit > 0);
        Information {
            negentropy: if has_field { Some(true) } else { has_nip },
            limit_max: limitation("max_limit").map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
            message_bytes_max: limitation("max_message_length")
                .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_of_relays_are_read() {
        let of = |negentropy, limit_max, message_bytes_max| Information {
            negentropy,
            limit_max,
            message_bytes_max,
        };
        for (document, want) in [
            (json!({}), of(None, None, None)),
            (json!(7), of(None, None, None)),
            (json!({"supported_nips": [1, 11]}), of(Some(false), None, None)),
            (json!({"supported_nips": [1, 77]}), of(Some(true), None, None)),
            (json!({"supported_nips": [1], "negentropy": 1}), of(Some(true), None, None)),
            (json!({"supported_nips": [1], "negentropy": 0}), of(Some(false), None, None)),
            (
                json!({"limitation": {"max_limit": 100, "max_message_length": 65536}}),
                of(None, Some(100), Some(65_536)),
            ),
            (json!({"limitation": {"max_limit": 0, "max_message_length": -1}}), of(None, None, None)),
        ] {
            assert_eq!(Information::of(&document), want, "{document}");
        }
    }
}
