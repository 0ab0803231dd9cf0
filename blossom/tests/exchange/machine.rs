//! All exchanges with all inputs, in all orders: whatever a host gives, an exchange ends in a bounded number of steps with one
//! response, what it has begun is ended, and nothing of a body is read before that is permitted.

use std::collections::BTreeSet;

use bytes::Bytes;
use relay_blossom::blob::{Blob, Media};
use relay_blossom::exchange::{Keys, Processed, Received, StepError};
use relay_blossom::index::{BlobInfo, Part, Refusal};
use relay_blossom::{Command, Context, Exchange, Head, Input, Outcome, Step};
use relay_engine::testing::signing::{event, key};
use relay_engine::verify::Libsecp256k1;
use relay_site::nip98::{Nip98Error, ServerUrl};
use relay_site::{BlossomRoute, BlossomSettings, Operation, PaymentOutcome, PaymentRequest, PaymentSettings};

use crate::world::{NOW, URL, hash, header, pubkey, signed, token};

const BODY: &[u8] = b"the body";

/// Most steps of an exchange, the response among them: a picture of unknown hash with a thumbnail, which goes wrong at the end.
const STEPS_MAX: usize = 20;

fn blob() -> Blob {
    let media = Media { original: hash(b"o"), dim: None, blurhash: None, thumbnail: Some(hash(b"t")) };
    let (sha256, mime) = (hash(BODY), "image/png".to_owned());
    Blob { sha256, size: 8, mime, uploaded: NOW, expires_at: None, media: Some(media) }
}

/// Everything that a host might give, fitting or not. Bodies are `body`.
fn inputs(body: &Bytes) -> Vec<Input> {
    let begun = |key: String| Outcome::Begun { upload: 7, key };
    let part = Part { key: "parts/1".to_owned(), skip: 0, take: 8 };
    let received = |sha256, size| {
        Input::Received(Received {
            sha256,
            size,
            first: Bytes::from_static(BODY),
            mime: None,
            kept_mime: None,
            uploaded: None,
        })
    };
    let picture = Processed {
        bytes: Bytes::from_static(b"stripped"),
        mime: "image/png".to_owned(),
        media: blob().media.unwrap(),
        thumbnail: None,
    };
    let small = Some((Bytes::from_static(b"small"), "image/png".to_owned()));
    let info = BlobInfo {
        blob: Some(blob()),
        owners: Vec::new(),
        events: Vec::new(),
        reports: Vec::new(),
        banned: None,
        last_access: None,
    };
    let outcomes = [
        Outcome::Blob(blob()),
        Outcome::Missing,
        Outcome::Accepted,
        begun("staged/7".to_owned()),
        begun(hash(BODY).to_string()),
        Outcome::Exists(blob()),
        Outcome::OwnedByOthers { upload: 7, is_sold: false },
        Outcome::OwnedByOthers { upload: 7, is_sold: true },
        Outcome::Busy,
        Outcome::Pulling,
        Outcome::Refused(Refusal::Banned),
        Outcome::Refused(Refusal::Gone),
        Outcome::Refused(Refusal::Unpaid),
        Outcome::Stored(blob()),
        Outcome::Complete {
            upload: 7,
            key: hash(BODY).to_string(),
            parts: vec![part],
            blob_exists: false,
            payment: Some("proof".to_owned()),
        },
        Outcome::Deleted,
        Outcome::Blobs(vec![blob()]),
        Outcome::Done,
        Outcome::Swept(None),
        Outcome::Info(Box::new(info)),
        Outcome::Bans(vec![(hash(BODY), "why".to_owned(), NOW)]),
        Outcome::Reports(Vec::new()),
    ];
    let mut inputs: Vec<Input> = outcomes.map(Input::Answered).into();
    inputs.extend([
        Input::EventUsed(Ok(())),
        Input::EventUsed(Err(Nip98Error::Replayed)),
        Input::Body(body.clone()),
        Input::Body(Bytes::from_static(b"nonsense")),
        received(hash(BODY), 8),
        received(hash(b"other"), 5),
        received(hash(b"nobody's"), 8),
        Input::Processed(Processed { thumbnail: small, ..picture.clone() }),
        Input::Processed(picture),
        Input::Done,
        Input::Paid(PaymentOutcome::Invoice("lnbc1".to_owned())),
        Input::Paid(PaymentOutcome::Paid),
        Input::Paid(PaymentOutcome::Refused("not paid".to_owned())),
        Input::Measured(8),
        Input::Servers(vec!["home.example".to_owned()]),
        Input::Failed(StepError::WrongHash),
        Input::Failed(StepError::Raced),
        Input::Failed(StepError::Store("it".to_owned())),
        Input::Failed(StepError::Unsupported),
    ]);
    inputs
}

/// A request for each endpoint, and its body.
fn requests() -> Vec<(Head, Bytes)> {
    use BlossomRoute as R;
    let body = Bytes::from_static(BODY);
    let (one, two) = (vec![hash(BODY)], vec![hash(BODY), hash(b"other")]);
    let x = hash(BODY).to_string();
    let head = |route, method: &str, target: &str, headers: &[(&str, &str)]| Head {
        route,
        method: method.to_owned(),
        path_and_query: target.to_owned(),
        param: Some(if route == R::List { pubkey(1).to_string() } else { x.clone() }),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let pull = format!("/{x}?xs=away.example&as={}", pubkey(1));
    let mut all = vec![
        (head(R::Blob, "GET", &format!("/{x}"), &[]), Bytes::new()),
        (head(R::Blob, "HEAD", &format!("/{x}"), &[]), Bytes::new()),
        (head(R::Blob, "GET", &pull, &[]), Bytes::new()),
        (head(R::List, "GET", "/list", &[]), Bytes::new()),
        (head(R::Page, "GET", "/blossom", &[]), Bytes::new()),
    ];
    let report = event(&key(1)).kind(1_984).at(NOW).tag(["x", &x, "spam"]).sign().json();
    all.push((head(R::Report, "PUT", "/report", &[]), report.into()));
    for hashes in [one, two] {
        let length = ("content-length", "8");
        let upload = token(1, "upload", &hashes);
        let upload = ("authorization", upload.as_str());
        let media = token(1, "media", &hashes);
        let media = ("authorization", media.as_str());
        let delete = token(1, "delete", &hashes);
        all.push((head(R::Upload, "PUT", "/upload", &[upload, length]), body.clone()));
        all.push((head(R::PutBlob, "PUT", "/x", &[upload, length]), body.clone()));
        let ask = ("x-content-length", "8");
        all.push((head(R::CheckUpload, "HEAD", "/upload", &[upload, ask]), Bytes::new()));
        all.push((head(R::CheckMedia, "HEAD", "/media", &[media, ask]), Bytes::new()));
        all.push((head(R::Media, "PUT", "/media", &[media, length]), body.clone()));
        let url = Bytes::from_static(b"{\"url\":\"https://away.example/file\"}");
        all.push((head(R::Mirror, "PUT", "/mirror", &[upload]), url));
        let part = [
            upload,
            length,
            ("content-type", "application/octet-stream"),
            ("upload-type", "image/png"),
            ("upload-length", "8"),
            ("upload-offset", "0"),
        ];
        all.push((head(R::PatchBlob, "PATCH", "/x", &part), body.clone()));
        all.push((head(R::Delete, "DELETE", "/x", &[("authorization", &delete)]), Bytes::new()));
    }
    for (route, method) in [
        (R::Blobs, "GET"),
        (R::Stat, "GET"),
        (R::Remove, "DELETE"),
        (R::Bans, "GET"),
        (R::Ban, "PUT"),
        (R::Unban, "DELETE"),
        (R::Reports, "GET"),
        (R::Gc, "POST"),
    ] {
        let body: &[u8] = if route == R::Ban { b"{\"reason\":\"spam\"}" } else { b"" };
        let request = signed(9, method, "/blossom", body);
        all.push((head(route, method, "/blossom", &[("authorization", &request.headers[0].1)]), body.into()));
    }
    all
}

/// What an exchange owes.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// Uploads that are begun, and parts.
    uploads: BTreeSet<u64>,
    parts: BTreeSet<u64>,
    /// Whether bytes are staged.
    staged: bool,
    /// Whether something has permitted to read the body.
    permitted: bool,
    /// Whether a blob is stored or was here, whether a payment is found to be good, and whether one was to be spent.
    stored: bool,
    checked: bool,
    spent: bool,
}

impl Ledger {
    /// A step, and what the host answers.
    fn enter(&mut self, step: &Step, input: &Input) {
        use Outcome as O;
        let outcome = match input {
            Input::Answered(outcome) => Some(outcome),
            _ => None,
        };
        match (step, outcome) {
            (
                Step::Ask(Command::Begin(_) | Command::BeginPull(..)),
                Some(O::Begun { upload, .. } | O::OwnedByOthers { upload, .. }),
            ) => {
                self.uploads.insert(*upload);
                self.permitted = true;
            }
            (Step::Ask(Command::BeginPart(..)), Some(O::Begun { upload, .. })) => {
                self.parts.insert(*upload);
                self.permitted = true;
            }
            // All parts are there.
            (Step::Ask(Command::BeginPart(..)), Some(O::Complete { upload, .. })) => {
                self.uploads.insert(*upload);
            }
            (Step::Ask(Command::Check(_)), Some(O::Accepted | O::Exists(_))) => self.permitted = true,
            (Step::Ask(Command::SetHash { upload, .. }), Some(O::Exists(_) | O::Refused(_)))
            | (
                Step::Ask(
                    Command::Abort { upload }
                    | Command::AbortPull { upload, .. }
                    | Command::AbortParts { upload }
                    | Command::LeaveParts { upload },
                ),
                _,
            ) => {
                self.uploads.remove(upload);
                self.parts.remove(upload);
            }
            (Step::Pay(PaymentRequest::Check { spends, .. }), _) => {
                self.checked |= *input == Input::Paid(PaymentOutcome::Paid);
                self.spent |= *spends;
            }
            (Step::Ask(Command::Finish(commit)), Some(O::Stored(_) | O::Exists(_) | O::Refused(_))) => {
                self.uploads.remove(&commit.upload);
                self.stored |= matches!(outcome, Some(O::Stored(_) | O::Exists(_)));
            }
            (Step::Ask(Command::FinishPart { upload, .. }), Some(O::Complete { .. })) => {
                self.parts.remove(upload);
                self.uploads.insert(*upload);
            }
            (
                Step::Ask(Command::FinishPart { upload, .. }),
                Some(O::Accepted | O::Exists(_) | O::Refused(_)),
            )
            | (Step::Ask(Command::AbortPart { upload, .. }), _) => {
                self.parts.remove(upload);
            }
            (Step::Receive(receive) | Step::Put { receive, .. } | Step::Fetch { receive, .. }, _) => {
                let is_received = matches!(input, Input::Received(_));
                // The bytes of parts are the index's matter.
                let is_staged = receive.key.starts_with("staged/") && self.parts.is_empty();
                self.staged |= is_received && is_staged && receive.sha256.is_none();
            }
            (Step::Promote { .. }, _) => self.staged &= !matches!(input, Input::Done | Input::Received(_)),
            (Step::Discard(_), _) => self.staged = false,
            _ => {}
        }
    }
}

#[test]
fn every_exchange_ends_and_leaves_nothing_whatever_the_host_gives() {
    let free = BlossomSettings { pull_through: true, ..BlossomSettings::default() };
    let payment = PaymentSettings {
        pubkey: Some(pubkey(5)),
        upload_msat_per_mib: 1_000,
        download_msat_per_mib: 1_000,
        ..PaymentSettings::default()
    };
    let settings = BlossomSettings { payment, ..free.clone() };
    let admins = [pubkey(9)];
    let unpaid = Context {
        settings: &settings,
        keys: Keys { admins: &admins, allowed: None, denied: &[] },
        base_url: URL,
        origin: ServerUrl::Url(URL),
        name: "relay",
        is_local: true,
        processes_media: true,
        upload_seconds_max: 3_600,
        now: NOW,
        verifier: &Libsecp256k1,
    };
    let free = Context { settings: &free, ..unpaid };
    let (mut ends, mut longest, mut statuses) = (0_u64, 0, BTreeSet::new());
    let proof = ("x-lightning".to_owned(), "proof".to_owned());
    let all = requests().into_iter().flat_map(|(head, body)| {
        let mut with_proof = head.clone();
        with_proof.headers.push(proof.clone());
        [(free, head.clone(), body.clone()), (unpaid, head, body.clone()), (unpaid, with_proof, body)]
    });
    for (context, mut head, body) in all {
        if head.path_and_query == "/blossom" && head.route != BlossomRoute::Page {
            let draft = event(&key(9)).kind(27_235).at(NOW).tag(["u", &format!("{URL}/blossom")]);
            let draft = draft.tag(["method", &head.method]).tag(["payload", &hash(&body).to_string()]);
            head.headers = vec![("authorization".to_owned(), header(draft))];
        }
        let inputs = inputs(&body);
        let (exchange, step) = Exchange::begin(&context, head.clone());
        let mut open = vec![(exchange, step, Ledger::default(), Vec::new())];
        while let Some((exchange, step, ledger, path)) = open.pop() {
            assert!(path.len() < STEPS_MAX, "{:?}: {path:?}", head.route);
            match &step {
                Step::Respond(response) => {
                    let what = || format!("{:?} {path:?}: {response:?}", head.route);
                    assert!(ledger.uploads.is_empty() && ledger.parts.is_empty(), "{ledger:?} {}", what());
                    assert!(!ledger.staged, "{}", what());
                    let has = |name| response.headers.iter().any(|(own, _)| *own == name);
                    assert_eq!(has("x-reason"), response.status >= 400, "{}", what());
                    ends += 1;
                    longest = longest.max(path.len() + 1);
                    statuses.insert(response.status);
                    // Nothing follows a response.
                    let after = exchange.clone().resume(&context, Input::Done);
                    assert!(matches!(after, Step::Respond(ref response) if response.status == 500));
                    continue;
                }
                Step::Receive(_) => assert!(ledger.permitted, "{:?}", head.route),
                Step::Pay(PaymentRequest::Check { purchase, spends: true, .. }) => {
                    assert!(!ledger.spent, "{:?} {path:?}", head.route);
                    let is_due = match purchase.operation {
                        // Of parts it is spent before.
                        Operation::Upload => ledger.stored != (head.route == BlossomRoute::PatchBlob),
                        Operation::Media => ledger.checked,
                        Operation::Download => !ledger.checked,
                    };
                    assert!(is_due, "{:?} {path:?}", head.route);
                }
                // Nothing becomes a new blob before it is paid.
                Step::Ask(Command::Finish(commit)) if context.settings.payment.sells_uploads() => {
                    let is_pull = head.route == BlossomRoute::Blob;
                    assert!(commit.is_unpaid || ledger.checked || is_pull, "{:?} {path:?}", head.route);
                }
                // Nothing is processed before it is paid.
                Step::Process { .. } if context.settings.payment.sells_uploads() => {
                    assert!(ledger.checked, "{:?} {path:?}", head.route);
                }
                Step::Read { .. } if head.route == BlossomRoute::Media => {
                    assert!(ledger.permitted, "{:?}", head.route);
                }
                _ => {}
            }
            // What comes of cleaning up makes no difference, so that two inputs are enough there.
            let is_cleaning = matches!(
                step,
                Step::Ask(
                    Command::Abort { .. }
                        | Command::AbortPull { .. }
                        | Command::AbortPart { .. }
                        | Command::AbortParts { .. }
                        | Command::LeaveParts { .. }
                ) | Step::Discard(_)
            ) || matches!(&step, Step::Pay(PaymentRequest::Check { purchase, spends: true, .. })
                if purchase.operation != Operation::Download && head.route != BlossomRoute::PatchBlob);
            let given = if is_cleaning { &inputs[inputs.len() - 2..] } else { &inputs[..] };
            for input in given {
                // One race of an exchange is like another.
                let race = Input::Failed(StepError::Raced);
                if *input == race && path.contains(&name(&race)) {
                    continue;
                }
                let (mut exchange, mut ledger, mut path) = (exchange.clone(), ledger.clone(), path.clone());
                ledger.enter(&step, input);
                path.push(name(input));
                let step = exchange.resume(&context, input.clone());
                open.push((exchange, step, ledger, path));
            }
        }
    }
    assert!(ends > 1_000, "{ends}");
    assert!(longest > 8, "{longest}");
    for status in [200, 201, 204, 400, 401, 402, 403, 404, 409, 422, 500, 503] {
        assert!(statuses.contains(&status), "{status} of {statuses:?}");
    }
}

/// The first words of an input.
fn name(input: &Input) -> String {
    let text = format!("{input:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}
