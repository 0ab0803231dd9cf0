//! Faults of the model's own code: tokens, integrity, owners, parts, mirrors, races.

use super::{CLOSED, Case, MIRRORS, bug};
use crate::model::Bug::*;
use crate::model::Setup;

pub(super) fn all() -> Vec<Case> {
    let mut all = tokens();
    all.extend(uploads());
    all.extend(parts());
    all.extend(mirrors());
    all.extend(management());
    all
}

fn tokens() -> Vec<Case> {
    vec![
        bug(IgnoresId, &["token-id", "report-id"]),
        bug(IgnoresSignature, &["token-signature", "token-signature-of-other", "report-signature"]),
        bug(IgnoresKind, &["token-kind", "token-upload", "token-media", "token-mirror"]),
        bug(IgnoresKind, &["token-list"]).on(Setup { private_lists: true, ..CLOSED }),
        bug(IgnoresCreatedAt, &["token-future", "token-upload"]),
        bug(WantsOldTokens, &["token-fresh"]),
        bug(NeedsNoExpiration, &["token-no-expiration", "token-upload"]),
        bug(ExpirationText, &["token-expiration-text"]),
        bug(ShortLivedOnly, &["token-long-lived"]),
        bug(IgnoresExpiration, &["token-expired", "token-mirror"]),
        bug(IgnoresVerb, &["token-t", "token-upload", "put-token-t", "parts-token-t"]),
        bug(IgnoresVerbOfUploads, &["token-media", "head-upload-token-t", "head-media-token-t"]),
        bug(NeedsNoVerb, &["token-no-t"]),
        bug(NeedsContent, &["token-content-empty"]),
        bug(FirstXOnly, &["x-upload-several", "x-upload-several-unannounced", "token-many-tags"]),
        bug(AnyXValue, &["x-delete-second-value"]),
        bug(FewTags, &["token-many-tags"]),
        bug(ListWithoutX, &["x-list"]),
        bug(GetAnyX, &["x-get"]).on(Setup { private: true, ..CLOSED }),
        bug(
            NeedsNoX,
            &[
                "x-delete-missing",
                "x-upload-missing",
                "x-media",
                "put-token-x",
                "parts-token-x",
                "head-upload-token-x",
                "head-media-token-x",
            ],
        ),
        bug(NeedsNoX, &["mirror-x"]).on(MIRRORS),
        bug(
            IgnoresX,
            &["x-delete-other", "x-upload-other", "x-upload-unannounced", "x-media", "put-token-x"],
        ),
        bug(ServerIgnored, &["server-other", "server-several-others", "server-lookalike"]),
        bug(ServerContains, &["server-lookalike"]),
        bug(ServerExact, &["server-url", "server-port", "server-case"]),
        bug(ServerRefused, &["server-same", "server-several", "server-url", "server-port"]),
        bug(ServerCase, &["server-case"]),
        bug(ServerWithoutPort, &["server-port"]),
        bug(SchemeCase, &["token-scheme-case"]),
        bug(RefusesUrlSafe, &["token-base64url", "token-base64url-padded"]),
        bug(RefusesStandard, &["token-base64", "token-base64-unpadded"]),
        bug(RefusesPadding, &["token-base64url-padded", "token-base64"]),
        bug(NeedsPadding, &["token-base64url", "token-base64-unpadded"]),
        bug(BreaksOnGarbage, &["token-garbage", "token-deep"]),
        bug(BreaksOnFields, &["token-fields"]),
        bug(DeletesWithoutToken, &["token-missing", "token-missing-401"]),
        bug(BadTokenOwns, &["token-open-upload"]).on(Setup { open: true, ..CLOSED }),
    ]
}

fn uploads() -> Vec<Case> {
    vec![
        bug(KeepsUnreadBody, &["keep-alive-errors"]),
        bug(ClosesAtOnce, &["close-refused", "close-exists"]),
        bug(NoContinue, &["expect-continue", "put-expect"]),
        bug(ImpatientBody, &["body-slow"]),
        bug(StoresCutBodies, &["length-too-long", "body-aborted", "put-short", "parts-short"]),
        bug(ServesBeforeComplete, &["body-early"]),
        bug(ChunksLost, &["length-missing", "put-length-missing", "media-length-missing"]),
        bug(LengthUnlimited, &["length-absurd", "put-length-absurd", "report-huge"]),
        bug(LengthUnchecked, &["length-overflow", "length-malformed"]),
        bug(
            StoresMismatches,
            &[
                "hash-mismatch",
                "hash-mismatch-stores",
                "x-upload-lying",
                "put-mismatch",
                "put-mismatch-stores",
                "length-too-short",
            ],
        ),
        bug(LosesExtraBytes, &["upload-exact"]),
        bug(StripsExif, &["upload-media-exact"]),
        bug(StaleRefusal, &["upload-after-refusal"]),
        bug(HashNeeded, &["upload-unannounced", "upload-again-unannounced", "x-upload-several-unannounced"]),
        bug(UploadedChanges, &["descriptor-uploaded"]),
        bug(NotAtomic, &["race-same"]),
        bug(CutBreaksOther, &["race-same-slow"]),
        bug(LimitedConcurrency, &["race-many"]),
        bug(OwnersNotAdded, &["list-both", "delete-last-owner", "upload-second-owner"]),
        bug(StoresOnHeadUpload, &["head-upload-stores"]),
        bug(DeletedStaysBlocked, &["delete-upload-again"]),
        bug(StripsExif, &["upload-media-exact"]),
    ]
}

fn parts() -> Vec<Case> {
    vec![
        bug(PartsInOrder, &["parts-any-order", "parts-two-blobs"]),
        bug(PartsSummed, &["parts-overlap-gap", "parts-repeated"]),
        bug(PartsShared, &["parts-two-blobs"]),
        bug(PartsVisible, &["parts-hidden"]),
        bug(PartsNotSerialised, &["parts-concurrent"]),
        bug(PartsKeptAfterMismatch, &["parts-after-mismatch"]),
        bug(PartsOnce, &["parts-overlapping", "parts-repeated"]),
        bug(PartsUnverified, &["parts-mismatch"]),
        bug(PartsUnbounded, &["parts-beyond"]),
        bug(PartsLengthChanges, &["parts-length-changed"]),
        bug(PartsByAnybody, &["parts-stranger"]),
        bug(PartsTypeIgnored, &["parts-type"]),
    ]
}

fn mirrors() -> Vec<Case> {
    vec![
        bug(
            Unguarded,
            &["ssrf-literal", "ssrf-name", "ssrf-forms", "ssrf-v6", "ssrf-userinfo", "ssrf-callback"],
        ),
        bug(GuardsLiteralsOnly, &["ssrf-name"]),
        bug(GuardsNamesOnly, &["ssrf-literal", "ssrf-forms", "ssrf-userinfo"]),
        bug(GuardsV4Only, &["ssrf-v6"]),
        bug(MirrorsAnyHash, &["mirror-mismatch", "mirror-mismatch-stores"]).on(MIRRORS),
        bug(StoresMirrorMismatch, &["mirror-mismatch-stores"]).on(MIRRORS),
        bug(EndlessRedirects, &["mirror-redirect-loop"]).on(MIRRORS),
        bug(NoRedirects, &["mirror-redirect"]).on(MIRRORS),
        bug(AnyScheme, &["mirror-scheme"]),
        bug(StoresCutMirrors, &["mirror-cut"]).on(MIRRORS),
        bug(HugeMirrors, &["mirror-huge"]).on(MIRRORS),
        bug(MirrorUntyped, &["mirror-type"]).on(MIRRORS),
        bug(MirrorsUntypedAsText, &["mirror-untyped"]).on(MIRRORS),
        bug(MirrorNeedsHashInPath, &["mirror-any-path"]).on(MIRRORS),
        bug(MirrorNeedsLength, &["mirror-no-length"]).on(MIRRORS),
        bug(FollowsFiles, &["mirror-redirect-scheme"]).on(MIRRORS),
    ]
}

fn management() -> Vec<Case> {
    vec![
        bug(ListsEverything, &["list-others", "list-unknown-key", "delete-own-list"]),
        bug(ListsTwice, &["list-own", "list-pages"]),
        bug(ListOldestFirst, &["list-order"]),
        bug(LimitIgnored, &["list-limit"]),
        bug(CursorIncluded, &["list-cursor"]),
        bug(CursorByTime, &["list-pages"]),
        bug(CursorIgnored, &["list-cursor", "list-cursor-last"]),
        bug(ListKeepsDeleted, &["list-deleted"]),
        bug(DeletesForStrangers, &["delete-stranger"]),
        bug(DeletesAllX, &["delete-several-x"]),
        bug(DeletesForAllOwners, &["delete-two-owners"]),
        bug(KeepsLastBytes, &["delete-gone", "delete-last-owner"]),
        bug(DeleteForgetsNothing, &["delete-gone", "delete-own-list", "delete-twice", "list-deleted"]),
        bug(DeletesForFormerOwners, &["delete-not-owner-any-more"]),
        bug(DeleteNotAtomic, &["race-delete", "race-delete-list"]),
        bug(DeleteReadsTorn, &["race-delete-read"]),
        bug(DeleteRacesOwners, &["race-owners", "race-owner-joins"]),
        bug(ReportRemoves, &["report-keeps"]),
        bug(ReportUnverified, &["report-signature", "report-id"]),
        bug(KeepsPosition, &["media-position", "media-texts"]),
        bug(KeepsTexts, &["media-texts"]),
        bug(KeepsOriginal, &["media-original"]),
        bug(NoOx, &["media-ox"]),
        bug(LosesOrientation, &["media-orientation"]),
    ]
}
