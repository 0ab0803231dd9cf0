//! Tokens (BUD-11): an event of kind 24242 in the Authorization header, by which a key allows an application to do something.

use relay_engine::types::{Kind, PubKey, Timestamp, parse_expiration};
use relay_engine::verify::Verifier;
use relay_site::authorization::{self, AuthEvent};
use url::Url;

use crate::blob::Sha256;

/// The kind of tokens.
pub const KIND: Kind = 24_242;

/// Longest token, in bytes of Base64: about 600 hashes.
pub const BYTES_MAX: usize = 64 << 10;

/// How far in the future `created_at` may be, in seconds: clocks differ.
pub const SKEW_SECONDS: Timestamp = 60;

/// What a token allows: its `t` tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Download a blob.
    Get,
    /// Upload, mirror, and ask whether one may.
    Upload,
    /// List one's blobs.
    List,
    /// Delete one's blob.
    Delete,
    /// Upload to `/media`, and ask whether one may.
    Media,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Upload => "upload",
            Verb::List => "list",
            Verb::Delete => "delete",
            Verb::Media => "media",
        }
    }
}

/// The first rule of BUD-11 that a token breaks. All are answered with 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// No `Authorization: Nostr`.
    Missing,
    /// Longer than [`BYTES_MAX`].
    TooLong,
    /// Not the Base64 of an event.
    Malformed,
    /// The kind is not 24242.
    Kind,
    /// `created_at` is in the future.
    Created,
    /// No `expiration` tag with a number.
    NoExpiration,
    /// It has expired.
    Expired,
    /// No `t` tag with this verb.
    Verb(Verb),
    /// Its `server` tags name other servers.
    Server,
    /// It has `server` tags, and this server does not know its own name.
    NoName,
    /// The id is not the event's hash, or the signature not its author's.
    Signature,
    /// No `x` tag with a hash, where one is required.
    NoHash,
    /// Its `x` tags name other blobs.
    OtherHash,
}

impl TokenError {
    /// The message for the client.
    pub fn message(self) -> &'static str {
        match self {
            TokenError::Missing => {
                "authorization required (BUD-11): send `Authorization: Nostr` with a signed event of kind 24242 in Base64"
            }
            TokenError::TooLong => "the token is longer than 64 KiB",
            TokenError::Malformed => "the Authorization header has no event in Base64",
            TokenError::Kind => "the token is not an event of kind 24242",
            TokenError::Created => "the token's created_at is in the future",
            TokenError::NoExpiration => "the token has no expiration tag with a Unix time",
            TokenError::Expired => "the token has expired",
            TokenError::Verb(Verb::Get) => "the token has no t tag `get`",
            TokenError::Verb(Verb::Upload) => "the token has no t tag `upload`",
            TokenError::Verb(Verb::List) => "the token has no t tag `list`",
            TokenError::Verb(Verb::Delete) => "the token has no t tag `delete`",
            TokenError::Verb(Verb::Media) => "the token has no t tag `media`",
            TokenError::Server => "the token's server tags name other servers",
            TokenError::NoName => {
                "the token has server tags, which this relay cannot check: its configuration does not say its `url`"
            }
            TokenError::Signature => "the token's id or signature is wrong",
            TokenError::NoHash => "the token has no x tag with the blob's SHA-256, which is required",
            TokenError::OtherHash => "the token's x tags name other blobs",
        }
    }
}

/// A token that is valid for a verb at this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub pubkey: PubKey,
    /// The hashes in its `x` tags.
    pub hashes: Vec<Sha256>,
}

impl Token {
    /// Checks an Authorization header by the rules of BUD-11, but for the `x` tags ([`Token::names`]). `server` is this
    /// server's URL or host; without it, tokens with `server` tags are refused. Headers of other schemes count as none.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(
        authorization: Option<&str>,
        verb: Verb,
        server: Option<&str>,
        now: Timestamp,
        verifier: &dyn Verifier,
    ) -> Result<Self, TokenError> {
        let token = authorization::token(authorization).ok_or(TokenError::Missing)?;
        if token.len() > BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let signed = AuthEvent::decode(token).map_err(|_| TokenError::Malformed)?;
        let event = &signed.event;
        if event.kind != KIND {
            return Err(TokenError::Kind);
        }
        if event.created_at > now.saturating_add(SKEW_SECONDS) {
            return Err(TokenError::Created);
        }
        let tags = event.tags();
        match parse_expiration(tags) {
            None => return Err(TokenError::NoExpiration),
            Some(at) if at <= now => return Err(TokenError::Expired),
            Some(_) => {}
        }
        let mut verbs = tags.named(b"t").filter_map(|tag| tag.value());
        if !verbs.any(|own| *own == *verb.name().as_bytes()) {
            return Err(TokenError::Verb(verb));
        }
        let mut servers = tags.named(b"server").peekable();
        if servers.peek().is_some() {
            // What the client says in its Host header proves nothing: it may hold a token for that other server.
            let own = host(server.ok_or(TokenError::NoName)?);
            let mut named = servers.filter_map(|tag| host(std::str::from_utf8(&tag.value()?).ok()?));
            if !named.any(|named| own.as_ref() == Some(&named)) {
                return Err(TokenError::Server);
            }
        }
        // Last, since it takes longest.
        if !signed.is_authentic(verifier) {
            return Err(TokenError::Signature);
        }
        let hashes = tags.named(b"x").filter_map(|tag| std::str::from_utf8(&tag.value()?).ok()?.parse().ok());
        Ok(Token { pubkey: event.pubkey, hashes: hashes.collect() })
    }

    /// Whether an `x` tag names this blob, where BUD-11 requires one.
    ///
    /// # Errors
    /// If there is none.
    pub fn names(&self, sha256: &Sha256) -> Result<(), TokenError> {
        if self.hashes.is_empty() {
            Err(TokenError::NoHash)
        } else if self.hashes.contains(sha256) {
            Ok(())
        } else {
            Err(TokenError::OtherHash)
        }
    }

    /// The hash, if all `x` tags name the same.
    pub fn only_hash(&self) -> Option<Sha256> {
        let (first, rest) = self.hashes.split_first()?;
        rest.iter().all(|hash| hash == first).then_some(*first)
    }
}

/// The host of a `server` tag. It should be a domain in lowercase, but clients write whole URLs and ports too.
fn host(server: &str) -> Option<String> {
    let server = server.trim();
    let url =
        if server.contains("://") { Url::parse(server) } else { Url::parse(&format!("http://{server}")) };
    let host = url.ok()?.host_str()?.trim_end_matches('.').to_owned();
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use relay_engine::testing::signing::{Draft, event, key};
    use relay_engine::verify::Libsecp256k1;

    use super::*;

    const NOW: Timestamp = 1_800_000_000;
    const SERVER: &str = "https://cdn.example.com";

    fn draft() -> Draft {
        event(&key(1)).kind(KIND).at(NOW - 10)
    }

    fn valid() -> Draft {
        draft().tag(["t", "upload"]).tag(["expiration", "1800000001"]).content("Upload Blob")
    }

    fn header(draft: Draft) -> String {
        format!("Nostr {}", BASE64_URL_SAFE_NO_PAD.encode(draft.sign().json()))
    }

    fn checked(header: &str) -> Result<Token, TokenError> {
        Token::check(Some(header), Verb::Upload, Some(SERVER), NOW, &Libsecp256k1)
    }

    #[test]
    fn each_rule_of_bud_11_is_checked() {
        let soon = ["expiration", "1800000001"];
        let upload = ["t", "upload"];
        let good = valid().sign();
        let encoded = |json: &str| format!("Nostr {}", BASE64_STANDARD.encode(json));
        let cases = [
            ("as it should be", header(valid()), Ok(())),
            ("scheme in any case", header(valid()).replacen("Nostr", "nOSTR", 1), Ok(())),
            ("empty content", header(valid().content("")), Ok(())),
            ("created at this second", header(valid().at(NOW)), Ok(())),
            ("a clock that is a minute fast", header(valid().at(NOW + 60)), Ok(())),
            ("created years ago", header(valid().at(1)), Ok(())),
            ("two verbs", header(draft().tag(["t", "get"]).tag(upload).tag(soon)), Ok(())),
            ("another scheme", "Bearer abc".to_owned(), Err(TokenError::Missing)),
            ("no token", "Nostr".to_owned(), Err(TokenError::Missing)),
            ("no base64", "Nostr {}".to_owned(), Err(TokenError::Malformed)),
            ("an empty token", "Nostr ".to_owned(), Err(TokenError::Malformed)),
            ("no event", encoded("{}"), Err(TokenError::Malformed)),
            ("too long", format!("Nostr {}", "A".repeat(BYTES_MAX + 1)), Err(TokenError::TooLong)),
            ("an event of NIP-98", header(valid().kind(27_235)), Err(TokenError::Kind)),
            ("a note", header(valid().kind(1)), Err(TokenError::Kind)),
            ("created in the future", header(valid().at(NOW + 61)), Err(TokenError::Created)),
            ("no expiration", header(draft().tag(upload)), Err(TokenError::NoExpiration)),
            (
                "an expiration that is no number",
                header(draft().tag(upload).tag(["expiration", "soon"])),
                Err(TokenError::NoExpiration),
            ),
            (
                "expires at this second",
                header(draft().tag(upload).tag(["expiration", "1800000000"])),
                Err(TokenError::Expired),
            ),
            ("expired", header(draft().tag(upload).tag(["expiration", "1"])), Err(TokenError::Expired)),
            ("no verb", header(draft().tag(soon)), Err(TokenError::Verb(Verb::Upload))),
            (
                "another verb",
                header(draft().tag(["t", "get"]).tag(soon)),
                Err(TokenError::Verb(Verb::Upload)),
            ),
            (
                "a verb in capitals",
                header(draft().tag(["t", "UPLOAD"]).tag(soon)),
                Err(TokenError::Verb(Verb::Upload)),
            ),
            ("a forged signature", encoded(&good.forged().json()), Err(TokenError::Signature)),
            (
                "another id",
                encoded(&good.fields().set("content", "\"changed\"").json()),
                Err(TokenError::Signature),
            ),
        ];
        for (what, header, want) in cases {
            assert_eq!(checked(&header).map(|_| ()), want, "{what}");
        }
        let none = Token::check(None, Verb::Get, Some(SERVER), NOW, &Libsecp256k1);
        assert_eq!(none, Err(TokenError::Missing));
    }

    #[test]
    fn all_four_forms_of_base64_are_taken() {
        // With enough letters beyond ASCII all four differ.
        let json = valid().content("Téléverser «ÿÿÿ» ???>>>~~~").sign().json();
        let forms = [BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD];
        for form in forms {
            let header = format!("Nostr {}", form.encode(&json));
            assert!(checked(&header).is_ok(), "{header}");
        }
    }

    #[test]
    fn server_tags_are_compared_by_host() {
        let cases: [(&[&str], bool); 15] = [
            (&["cdn.example.com"], true),
            (&["CDN.Example.com"], true),
            (&["https://cdn.example.com"], true),
            (&["https://cdn.example.com/"], true),
            (&["http://cdn.example.com/upload"], true),
            (&["cdn.example.com:443"], true),
            (&["cdn.example.com."], true),
            (&["other.example", "cdn.example.com"], true),
            (&["other.example"], false),
            (&["example.com"], false),
            (&["cdn.example.com.evil"], false),
            (&["cdn.example.com@evil.example"], false),
            (&["https://evil.example/cdn.example.com"], false),
            (&[""], false),
            (&["::"], false),
        ];
        for (servers, want) in cases {
            let draft = servers.iter().fold(valid(), |draft, server| draft.tag(["server", server]));
            let want = if want { Ok(()) } else { Err(TokenError::Server) };
            assert_eq!(checked(&header(draft)).map(|_| ()), want, "{servers:?}");
        }
        // A tag without a value names no server.
        assert_eq!(checked(&header(valid().tag(["server"]))), Err(TokenError::Server));
        let local = header(valid().tag(["server", "127.0.0.1"]));
        assert!(
            Token::check(Some(&local), Verb::Upload, Some("http://127.0.0.1:7777"), NOW, &Libsecp256k1)
                .is_ok()
        );
        // A server that goes by the Host header takes no token that is scoped.
        let scoped = Token::check(Some(&local), Verb::Upload, None, NOW, &Libsecp256k1);
        assert_eq!(scoped.map(|_| ()), Err(TokenError::NoName));
        assert!(Token::check(Some(&header(valid())), Verb::Upload, None, NOW, &Libsecp256k1).is_ok());
    }

    #[test]
    fn x_tags_name_blobs() {
        let [a, b, c] = [1, 2, 3].map(|byte| Sha256([byte; 32]));
        let token = |hashes: &[String]| {
            let draft = hashes.iter().fold(valid(), |draft, hash| draft.tag(["x", hash]));
            checked(&header(draft)).unwrap()
        };
        let none = token(&[]);
        assert_eq!((none.names(&a), none.only_hash()), (Err(TokenError::NoHash), None));
        let one = token(&[a.to_string()]);
        assert_eq!((one.names(&a), one.names(&b)), (Ok(()), Err(TokenError::OtherHash)));
        assert_eq!(one.only_hash(), Some(a));
        let two = token(&[a.to_string(), b.to_string()]);
        assert_eq!((two.names(&b), two.names(&c)), (Ok(()), Err(TokenError::OtherHash)));
        assert_eq!(two.only_hash(), None);
        assert_eq!(token(&[a.to_string(), a.to_string()]).only_hash(), Some(a));
        let odd = token(&[b.to_string().replace('0', "O"), "".to_owned(), "ab".repeat(33)]);
        assert_eq!(odd.names(&b), Err(TokenError::NoHash));
        let capitals = Sha256([0xab; 32]);
        assert_eq!(token(&["AB".repeat(32)]).names(&capitals), Err(TokenError::NoHash));
    }
}
