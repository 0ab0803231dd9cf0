//! Blossom as a feature: the endpoints of blobs (BUD-01 to BUD-12, and the drafts BUD-13 and BUD-14), of administrators, and the settings.

use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::nip11::RelayDescription;
use crate::payment::PaymentSettings;
use crate::route::{Bounds, Endpoint, HeaderCondition, Route};

/// The settings of Blossom: `[blossom]` of the server, `blossom` in the Worker's `RELAY_CONFIG`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlossomSettings {
    /// Whether blobs are served and taken.
    pub enabled: bool,
    /// Whether anybody may upload. Unset: anybody on a relay that only this machine can reach, or where uploads are paid for, and the keys
    /// below elsewhere.
    /// An upload needs a token (BUD-11) in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
    /// Keys that may upload, beside administrators (`policy.admin_pubkeys`) and the keys that may publish here
    /// (`policy.allow_pubkeys`). Keys of `policy.deny_pubkeys` may not.
    #[serde(with = "crate::settings::pubkeys")]
    pub upload_pubkeys: Vec<PubKey>,
    /// Largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// Largest original that `/media` takes, in bytes; it is in memory as a whole. On the edge 8 MiB at most.
    pub media_bytes_max: u64,
    /// Bytes of all blobs of a key. Unset: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_bytes_max: Option<u64>,
    /// Bytes of all blobs. Unset: no limit but the disk's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes_max: Option<u64>,
    /// MIME types that are taken (`image/png`, `image/*`). Empty: all.
    pub allow_types: Vec<String>,
    /// MIME types that are refused.
    pub deny_types: Vec<String>,
    /// When blobs are removed. The first matching rule applies; a blob that matches none is kept.
    pub retention: Vec<RetentionRule>,
    /// Seconds that the parts of an upload (`PATCH`) are kept after the last one came.
    pub parts_seconds: u32,
    /// Whether `PUT /mirror` fetches blobs from other servers.
    pub mirror: bool,
    /// Whether a blob that is not here is fetched from the servers that the request names (`xs`, `as`).
    pub pull_through: bool,
    /// Whether mirrors and pull-through may connect to private addresses, and use http. For tests and private networks.
    pub allow_private_addresses: bool,
    /// Whether anybody may list the blobs of a key. Otherwise only the key itself, with a token.
    pub list_public: bool,
    /// Whether anybody may download blobs. Otherwise only keys that may upload, and administrators, with a token (`get`, BUD-11).
    pub get_public: bool,
    /// What uploads and downloads cost, and who is paid (BUD-07).
    pub payment: PaymentSettings,
}

/// When blobs are removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// The rule is for these MIME types. Empty: all.
    #[serde(default)]
    pub types: Vec<String>,
    /// And for blobs of at least this many bytes.
    #[serde(default)]
    pub bytes_min: u64,
    /// Seconds after the upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Seconds without a download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_seconds: Option<u64>,
}

impl Default for BlossomSettings {
    fn default() -> Self {
        BlossomSettings {
            enabled: true,
            open: None,
            upload_pubkeys: Vec::new(),
            blob_bytes_max: 4 << 30,
            media_bytes_max: 32 << 20,
            key_bytes_max: None,
            total_bytes_max: None,
            allow_types: Vec::new(),
            deny_types: Vec::new(),
            retention: Vec::new(),
            parts_seconds: 3_600,
            mirror: true,
            pull_through: false,
            allow_private_addresses: false,
            list_public: true,
            get_public: true,
            payment: PaymentSettings::default(),
        }
    }
}

/// What an endpoint of Blossom serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlossomRoute {
    /// A blob (BUD-01); `{blob}` is its SHA-256 with an optional extension.
    Blob,
    /// Delete one's blob (BUD-12).
    Delete,
    /// Upload a blob of known SHA-256 (BUD-13, draft).
    PutBlob,
    /// Upload a part of a blob (BUD-14, draft).
    PatchBlob,
    /// Upload a blob (BUD-02).
    Upload,
    /// Whether an upload would be accepted (BUD-06).
    CheckUpload,
    /// Fetch a blob from another server (BUD-04).
    Mirror,
    /// Upload a picture without its metadata (BUD-05).
    Media,
    /// Whether that would be accepted (BUD-05).
    CheckMedia,
    /// The blobs of a key (BUD-12).
    List,
    /// Report blobs (BUD-09).
    Report,
    /// The page: limits, types, how to use it, and the visitor's own blobs.
    Page,
    /// All blobs, for administrators (NIP-98).
    Blobs,
    /// A blob with its owners, events and reports, for administrators (NIP-98).
    Stat,
    /// Remove a blob whoever owns it (NIP-98, administrators).
    Remove,
    /// Banned hashes (NIP-98, administrators).
    Bans,
    /// Ban a hash: its blob is removed and refused from then on (NIP-98, administrators).
    Ban,
    /// Lift a ban (NIP-98, administrators).
    Unban,
    /// Reports, newest first (NIP-98, administrators).
    Reports,
    /// Remove what retention and aborted uploads have left, now (NIP-98, administrators).
    Gc,
}

pub(crate) const FEATURE: Feature = Feature { endpoints: ENDPOINTS, nips, settings: &["blossom"], section };

/// A read that is answered from a few rows.
const READ: Endpoint = Endpoint {
    method: "GET",
    path: "/blossom",
    header: HeaderCondition::Anything,
    route: Route::Blossom(BlossomRoute::Page),
    any_origin: true,
    bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 60 },
};

/// A body of any length, which is bounded by the settings; a slow client may take hours.
const BYTES: Bounds = Bounds { body_bytes_max: usize::MAX, idle_seconds: 30, total_seconds: 12 * 3_600 };

const fn at(method: &'static str, path: &'static str, route: BlossomRoute) -> Endpoint {
    Endpoint { method, path, route: Route::Blossom(route), ..READ }
}

const fn upload(method: &'static str, path: &'static str, route: BlossomRoute) -> Endpoint {
    Endpoint { bounds: BYTES, ..at(method, path, route) }
}

const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 12 * 3_600 },
        ..at("GET", "/{blob}", BlossomRoute::Blob)
    },
    at("DELETE", "/{blob}", BlossomRoute::Delete),
    upload("PUT", "/{blob}", BlossomRoute::PutBlob),
    upload("PATCH", "/{blob}", BlossomRoute::PatchBlob),
    upload("PUT", "/upload", BlossomRoute::Upload),
    at("HEAD", "/upload", BlossomRoute::CheckUpload),
    Endpoint {
        bounds: Bounds { body_bytes_max: 16 << 10, idle_seconds: 10, total_seconds: 3_600 },
        ..at("PUT", "/mirror", BlossomRoute::Mirror)
    },
    upload("PUT", "/media", BlossomRoute::Media),
    at("HEAD", "/media", BlossomRoute::CheckMedia),
    at("GET", "/list/{pubkey}", BlossomRoute::List),
    Endpoint {
        bounds: Bounds { body_bytes_max: 128 << 10, idle_seconds: 10, total_seconds: 60 },
        ..at("PUT", "/report", BlossomRoute::Report)
    },
    READ,
    at("GET", "/blossom/blobs", BlossomRoute::Blobs),
    at("GET", "/blossom/blobs/{sha256}", BlossomRoute::Stat),
    at("DELETE", "/blossom/blobs/{sha256}", BlossomRoute::Remove),
    at("GET", "/blossom/bans", BlossomRoute::Bans),
    at("PUT", "/blossom/bans/{sha256}", BlossomRoute::Ban),
    at("DELETE", "/blossom/bans/{sha256}", BlossomRoute::Unban),
    at("GET", "/blossom/reports", BlossomRoute::Reports),
    at("POST", "/blossom/gc", BlossomRoute::Gc),
];

/// NIP-94 (file metadata), NIP-B7 (Blossom) is not a number; the administrators' API is signed by NIP-98.
const NIPS: [u16; 2] = [94, 98];

fn nips(about: &RelayDescription<'_>) -> Vec<u16> {
    if about.blossom.is_some() { NIPS.to_vec() } else { Vec::new() }
}

fn section(about: &RelayDescription<'_>) -> String {
    let Some(blossom) = about.blossom else { return String::new() };
    let price = blossom.payment.price_text().map_or_else(String::new, |words| format!(" There, {words}."));
    format!(
        "<h2>Files</h2>\n<p><a href=\"/blossom\">Files on this relay</a> are stored by Blossom (BUD-01 to BUD-12, and the drafts BUD-13 and \
         BUD-14).{price}</p>\n"
    )
}
