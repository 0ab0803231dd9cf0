//! A Blossom server in memory, correct unless it is given a fault: threads, one for each connection, and one lock.

mod blobs;
mod fetch;
mod http;
mod management;
mod media;
mod parts;
mod store;
mod tokens;
mod uploads;

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use http::{Request, Response};
use store::Store;

/// How the model is set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Uploads need no token.
    pub(crate) open: bool,
    /// Reading needs a token.
    pub(crate) private: bool,
    /// Lists need a token.
    pub(crate) private_lists: bool,
    /// Mirror requests may lead to this machine.
    pub(crate) private_allowed: bool,
    /// Uploads are paid for.
    pub(crate) priced: bool,
    /// Blobs are served by a redirect to another path.
    pub(crate) redirects: bool,
}

/// One rule broken on purpose.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// In the model's own code.
    Bug(Bug),
    /// Requests are seen differently, as if a header were not there, say.
    Request(fn(&mut Request)),
    /// Responses are changed before they are sent.
    Response(fn(&Request, &mut Response)),
}

/// Faults of the model's own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Bug {
    // Tokens.
    IgnoresId, IgnoresSignature, IgnoresKind, IgnoresCreatedAt, WantsOldTokens, NeedsNoExpiration, ExpirationText,
    ShortLivedOnly, IgnoresExpiration, IgnoresVerb, IgnoresVerbOfUploads, NeedsNoVerb, NeedsContent, FirstXOnly,
    AnyXValue, FewTags, ListWithoutX, GetAnyX, NeedsNoX, IgnoresX, ServerIgnored, ServerContains, ServerExact,
    ServerRefused, ServerCase, ServerWithoutPort, SchemeCase, RefusesUrlSafe, RefusesStandard, RefusesPadding,
    NeedsPadding, BreaksOnGarbage, BreaksOnFields, DeletesWithoutToken,
    // Framing.
    KeepsUnreadBody, ClosesAtOnce, NoContinue, ImpatientBody, StoresCutBodies, ServesBeforeComplete, ChunksLost,
    LengthUnlimited, LengthUnchecked, LaxHeads, OneAtATime,
    // Uploads.
    StoresMismatches, LosesExtraBytes, StripsExif, StaleRefusal, HashNeeded, UploadedChanges, NotAtomic, CutBreaksOther,
    LimitedConcurrency, OwnersNotAdded, BadTokenOwns, StoresOnHeadUpload, DeletedStaysBlocked,
    // Parts.
    PartsInOrder, PartsSummed, PartsShared, PartsVisible, PartsNotSerialised, PartsKeptAfterMismatch, PartsOnce,
    PartsUnverified, PartsUnbounded, PartsLengthChanges, PartsByAnybody, PartsTypeIgnored,
    // Mirror.
    Unguarded, GuardsLiteralsOnly, GuardsNamesOnly, GuardsV4Only, MirrorsAnyHash, StoresMirrorMismatch, EndlessRedirects,
    NoRedirects, AnyScheme, StoresCutMirrors, HugeMirrors, MirrorUntyped, MirrorNeedsHashInPath, MirrorNeedsLength,
    MirrorsUntypedAsText, FollowsFiles,
    // Lists and deletes.
    ListsEverything, ListsTwice, ListOldestFirst, LimitIgnored, CursorIncluded, CursorByTime, CursorIgnored,
    ListKeepsDeleted, DeletesForStrangers, DeletesAllX, DeletesForAllOwners, KeepsLastBytes, DeleteForgetsNothing,
    DeletesForFormerOwners, DeleteNotAtomic, DeleteRacesOwners, DeleteReadsTorn,
    // Reports and media.
    ReportRemoves, ReportUnverified, KeepsPosition, KeepsTexts, KeepsOriginal, NoOx, LosesOrientation,
}

/// The model, and what its threads share.
pub(crate) struct Model {
    pub(crate) url: String,
    setup: Setup,
    fault: Option<Fault>,
    store: Mutex<Store>,
    /// Held by a connection, for a fault.
    alone: Mutex<()>,
}

impl Model {
    /// Starts a server on a free port.
    pub(crate) fn start(setup: Setup, fault: Option<Fault>) -> Arc<Model> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let model = Arc::new(Model { url, setup, fault, store: Mutex::default(), alone: Mutex::default() });
        let server = Arc::clone(&model);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || http::serve(&server, socket));
            }
        });
        model
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        matches!(self.fault, Some(Fault::Bug(ours)) if ours == bug)
    }

    fn spoil_request(&self, request: &mut Request) {
        if let Some(Fault::Request(act)) = self.fault {
            act(request);
        }
    }

    fn spoil(&self, request: &Request, response: &mut Response) {
        if let Some(Fault::Response(act)) = self.fault {
            act(request, response);
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// The answer that needs no body: refusals, and all but uploads.
    fn refuse(&self, request: &Request) -> Option<Response> {
        let result = match (request.method.as_str(), request.path.as_str()) {
            ("OPTIONS", _) => return Some(options(&request.path)),
            ("PUT", "/upload" | "/media" | "/mirror" | "/report") => self.refuse_body(request),
            ("PUT", path) | ("PATCH", path) if blobs::hash_of(path).is_some() => self.refuse_body(request),
            ("PUT" | "PATCH", _) => return Some(Response::error(400, "no hash")),
            ("HEAD", "/upload" | "/media") => self.head_upload(request).map(Some),
            ("GET" | "HEAD", "/") => return Some(Response::new(200)),
            ("GET" | "HEAD", path) if path.starts_with("/list/") => self.list(request).map(Some),
            ("GET" | "HEAD", _) => self.blob(request).map(Some),
            ("DELETE", _) => self.delete(request).map(Some),
            ("POST" | "TRACE", _) => {
                let mut response = Response::error(405, "not this method");
                response.set("allow", "GET, HEAD, PUT, DELETE, PATCH, OPTIONS");
                return Some(response);
            }
            _ => return Some(Response::error(501, "unknown method")),
        };
        match result {
            Ok(response) => response,
            Err(response) => Some(*response),
        }
    }

    /// The answer to a request with its body.
    fn complete(&self, request: &Request) -> Response {
        let result = match (request.method.as_str(), request.path.as_str()) {
            (_, "/mirror") => self.mirror(request),
            (_, "/report") => Ok(self.report(request)),
            (_, "/media") => self.media(request),
            ("PATCH", _) => self.part(request),
            _ => self.upload(request),
        };
        result.unwrap_or_else(|response| *response)
    }
}

fn options(path: &str) -> Response {
    let mut response = Response::new(204);
    response.set("access-control-allow-headers", "Authorization, *");
    response.set("access-control-allow-methods", "GET, HEAD, PUT, DELETE, PATCH");
    response.set("access-control-max-age", "86400");
    if blobs::hash_of(path).is_some() {
        response.set("allow", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS");
    }
    response
}
