//! Blob descriptors (BUD-02) with the tags of NIP-94 (BUD-08).

use serde::Serialize;

use crate::blob::{Blob, Sha256};
use crate::mime;

/// What uploads, mirrors and lists answer with about a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Descriptor<'a> {
    /// Where the blob is, with the usual extension of its type (`.bin` if it has none).
    pub url: String,
    /// Its hash.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// Its MIME type.
    #[serde(rename = "type")]
    pub mime: &'a str,
    /// When it was uploaded first, in Unix seconds.
    pub uploaded: u64,
    /// Tags of an event of kind 1063 that describes it.
    pub nip94: Vec<[String; 2]>,
}

impl<'a> Descriptor<'a> {
    /// Describes a blob on the server at `base_url`, which has no slash at its end.
    pub fn new(base_url: &str, blob: &'a Blob) -> Self {
        let Blob { sha256, size, mime, uploaded, media, .. } = blob;
        let url = format!("{base_url}/{sha256}.{}", mime::extension(mime));
        let original = media.as_ref().map_or(*sha256, |media| media.original);
        let mut nip94 = vec![
            ["url".to_owned(), url.clone()],
            ["m".to_owned(), mime::essence(mime).to_owned()],
            ["x".to_owned(), sha256.to_string()],
            ["ox".to_owned(), original.to_string()],
            ["size".to_owned(), size.to_string()],
        ];
        if let Some(media) = media {
            let dim = media.dim.map(|(width, height)| format!("{width}x{height}"));
            let thumb = media.thumbnail.map(|thumbnail| format!("{base_url}/{thumbnail}"));
            let found = [("dim", dim), ("blurhash", media.blurhash.clone()), ("thumb", thumb)];
            nip94.extend(found.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])));
        }
        Descriptor { url, sha256: *sha256, size: *size, mime, uploaded: *uploaded, nip94 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::blob::Media;

    #[test]
    fn a_descriptor_has_the_fields_of_bud_02_and_the_tags_of_nip_94() {
        let (sha256, original, thumbnail) = (Sha256([1; 32]), Sha256([2; 32]), Sha256([3; 32]));
        let mut blob = Blob {
            sha256,
            size: 5,
            mime: "application/x-unknown".to_owned(),
            uploaded: 9,
            expires_at: Some(10),
            media: None,
        };
        let (x, ox, thumb) = (sha256.to_string(), original.to_string(), thumbnail.to_string());
        let url = format!("https://a.example/{x}.bin");
        let want = json!({
            "url": url, "sha256": x, "size": 5, "type": "application/x-unknown", "uploaded": 9,
            "nip94": [["url", url], ["m", "application/x-unknown"], ["x", x], ["ox", x], ["size", "5"]],
        });
        let described =
            |blob: &Blob| serde_json::to_value(Descriptor::new("https://a.example", blob)).unwrap();
        assert_eq!(described(&blob), want);

        blob.mime = "image/jpeg".to_owned();
        blob.media = Some(Media {
            original,
            dim: Some((640, 480)),
            blurhash: Some("LEHV6nWB2yk8".to_owned()),
            thumbnail: Some(thumbnail),
        });
        let url = format!("https://a.example/{x}.jpg");
        let want = json!([
            ["url", url],
            ["m", "image/jpeg"],
            ["x", x],
            ["ox", ox],
            ["size", "5"],
            ["dim", "640x480"],
            ["blurhash", "LEHV6nWB2yk8"],
            ["thumb", format!("https://a.example/{thumb}")],
        ]);
        assert_eq!(described(&blob)["nip94"], want);
    }
}
