//! What all tests share: the server, the keys, blobs, and what the server has turned out to offer.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::blob::Blob;
use crate::http::{Connection, Endpoint, Response};
use crate::nostr::{Key, Token};
use crate::origin::Origin;
use crate::request::Request;
use crate::suite::{Check, Options, TestError, fail, skip};

/// Statuses by which a server says that it does not have an endpoint.
const NOT_OFFERED: [u16; 3] = [404, 405, 501];

/// What all tests share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: Endpoint,
    pub(crate) options: Options,
    /// May upload.
    pub(crate) key: Key,
    /// May upload, or not: tests of two owners find out.
    pub(crate) second: Key,
    /// A key nobody knows.
    pub(crate) stranger: Key,
    /// Where mirror requests are sent.
    pub(crate) origin: Arc<Origin>,
    /// Where they must not be sent.
    pub(crate) loopback: Arc<Origin>,
    run: [u8; 8],
    count: AtomicU64,
    uploaded: Mutex<Vec<(String, Key)>>,
    /// Requests whose response lacked `Access-Control-Allow-Origin: *`.
    pub(crate) without_cors: Mutex<Vec<String>>,
    probes: Mutex<HashMap<&'static str, Result<u16, TestError>>>,
    samples: Mutex<HashMap<&'static str, Result<Blob, TestError>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    pub(crate) fn new(options: Options) -> io::Result<Self> {
        let server = Endpoint::new(&options.url, options.timeout)?;
        drop(server.connect()?);
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(io::Error::other)?;
        Ok(Context {
            key: options.key.clone().map_or_else(random_key, Ok)?,
            second: options.second_key.clone().map_or_else(random_key, Ok)?,
            stranger: random_key()?,
            origin: Origin::listen(&options.callback)?,
            loopback: Origin::listen("127.0.0.1:0")?,
            server,
            options,
            run,
            count: AtomicU64::new(0),
            uploaded: Mutex::default(),
            without_cors: Mutex::default(),
            probes: Mutex::default(),
            samples: Mutex::default(),
        })
    }

    /// A request of any method.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request::new(self, method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Request<'_> {
        self.request("GET", path)
    }

    pub(crate) fn head(&self, path: &str) -> Request<'_> {
        self.request("HEAD", path)
    }

    pub(crate) fn put(&self, path: &str) -> Request<'_> {
        self.request("PUT", path)
    }

    pub(crate) fn connect(&self) -> Result<Connection, TestError> {
        self.server.connect().map_err(|error| TestError::Fail(format!("cannot connect: {error}")))
    }

    /// Bytes that no server has seen.
    pub(crate) fn blob(&self, length: usize) -> Blob {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Blob::unique(&self.run, number, length)
    }

    /// Like [`Context::blob`], with a beginning.
    pub(crate) fn blob_of(&self, start: &[u8], mime: &str) -> Blob {
        let end = self.blob(40);
        Blob::new([start, crate::nostr::hex(&end.bytes).as_bytes()].concat(), mime)
    }

    /// Notes that a blob may be on the server, so that [`Context::clean_up`] removes it.
    pub(crate) fn note(&self, sha256: &str, key: &Key) {
        lock(&self.uploaded).push((sha256.to_owned(), key.clone()));
    }

    /// `PUT /upload` with a token.
    pub(crate) fn upload_as(&self, blob: &Blob, key: &Key) -> Result<Response, TestError> {
        self.note(&blob.sha256, key);
        let token = Token::new("upload").x(&blob.sha256);
        self.put("/upload").token(&token, key).blob(blob).send()
    }

    pub(crate) fn upload(&self, blob: &Blob) -> Result<Response, TestError> {
        self.upload_as(blob, &self.key)
    }

    /// Uploads, and passes on why that was refused.
    pub(crate) fn store_as(&self, blob: &Blob, key: &Key) -> Check {
        let response = self.upload_as(blob, key)?;
        match response.status {
            200 | 201 => Ok(()),
            401..=403 => skip(format!("needs an upload: {}; give a key that may", response.summary())),
            status if NOT_OFFERED.contains(&status) => {
                skip(format!("needs an upload: {}", response.summary()))
            }
            _ => fail(format!("{}; expected 200 or 201", response.summary())),
        }
    }

    /// A blob of that many bytes that is on the server.
    pub(crate) fn stored(&self, length: usize) -> Result<Blob, TestError> {
        let blob = self.blob(length);
        self.store_as(&blob, &self.key)?;
        Ok(blob)
    }

    /// Stores, with a key of which it is not known whether it may.
    pub(crate) fn store_second(&self, blob: &Blob) -> Check {
        let response = self.upload_as(blob, &self.second)?;
        if response.is_success() {
            return Ok(());
        }
        skip(format!("needs a second key that may upload: {}; give --second-key", response.summary()))
    }

    /// A stored blob that tests only read: `make` is called once for a name.
    pub(crate) fn sample(&self, name: &'static str, make: impl FnOnce() -> Blob) -> Result<Blob, TestError> {
        if let Some(known) = lock(&self.samples).get(name) {
            return known.clone();
        }
        let blob = make();
        let result = self.store_as(&blob, &self.key).map(|()| blob);
        lock(&self.samples).insert(name, result.clone());
        result
    }

    /// A stored blob of 1,000 bytes that tests only read.
    pub(crate) fn blob_of_1000_bytes(&self) -> Result<Blob, TestError> {
        self.sample("blob_of_1000_bytes", || self.blob(1000))
    }

    /// A stored picture (PNG) that tests only read.
    pub(crate) fn picture(&self) -> Result<Blob, TestError> {
        self.sample("picture", || crate::blob::png(&self.blob(32).bytes))
    }

    /// The status of a request made once, 0 if there was none.
    fn probe(
        &self,
        name: &'static str,
        send: impl FnOnce() -> Result<u16, TestError>,
    ) -> Result<u16, TestError> {
        if let Some(known) = lock(&self.probes).get(name) {
            return known.clone();
        }
        let result = send();
        lock(&self.probes).insert(name, result.clone());
        result
    }

    /// Skips unless the server has an endpoint, judging by the status of one request.
    pub(crate) fn offered(
        &self,
        name: &'static str,
        send: impl FnOnce() -> Result<Response, TestError>,
    ) -> Check {
        let status = self.probe(name, || Ok(send()?.status))?;
        if NOT_OFFERED.contains(&status) {
            return skip(format!("{name} is not offered ({status})"));
        }
        Ok(())
    }

    /// Whether blobs are only served with a token.
    pub(crate) fn reads_need_token(&self) -> Result<bool, TestError> {
        // On a server that takes no upload, the answer for a blob that it does not have has to do.
        let blob = self.blob_of_1000_bytes().unwrap_or_else(|_| self.blob(10));
        let probe = || Ok(self.get(&blob.path()).send()?.status);
        Ok(matches!(self.probe("reading without a token", probe)?, 401 | 403))
    }

    /// Whether uploads need no token.
    pub(crate) fn uploads_are_open(&self) -> Result<bool, TestError> {
        let probe = || {
            let blob = self.blob(20);
            Ok(self.put("/upload").blob(&blob).send()?.status)
        };
        Ok(matches!(self.probe("uploading without a token", probe)?, 200 | 201))
    }

    /// `GET` of a blob, with a token if the server wants one. Skips if the server redirects.
    pub(crate) fn read(&self, blob: &Blob) -> Result<Request<'_>, TestError> {
        self.read_path("GET", &blob.path(), &blob.sha256)
    }

    /// [`Context::read`] with another method or path.
    pub(crate) fn read_path(&self, method: &str, path: &str, sha256: &str) -> Result<Request<'_>, TestError> {
        let request = self.request(method, path);
        if self.reads_need_token()? {
            return Ok(request.token(&Token::new("get").x(sha256), &self.key));
        }
        Ok(request)
    }

    /// The blob as the server serves it, through redirects.
    pub(crate) fn download(&self, sha256: &str) -> Result<Response, TestError> {
        let mut response = self.read_path("GET", &format!("/{sha256}"), sha256)?.send()?;
        for _ in 0..3 {
            if !matches!(response.status, 301 | 302 | 307 | 308) {
                break;
            }
            let location = response.header("location").unwrap_or_default();
            let next = url::Url::parse(&self.server.url("/"))
                .and_then(|base| base.join(location))
                .map_err(|error| TestError::Fail(format!("{}: Location: {error}", response.summary())))?;
            let server = Endpoint::new(next.as_str(), self.options.timeout)?;
            response = self.get(&next[url::Position::BeforePath..]).send_to(&server)?;
        }
        Ok(response)
    }

    /// Fails unless the blob is served whole and unchanged.
    pub(crate) fn expect_served(&self, blob: &Blob) -> Check {
        let response = self.download(&blob.sha256)?;
        if response.status != 200 {
            return fail(format!("{}; expected the blob", response.summary()));
        }
        if response.body != blob.bytes {
            let seen = response.body.len();
            return fail(format!(
                "{}: {seen} bytes that are not the {} uploaded ones",
                response.summary(),
                blob.bytes.len()
            ));
        }
        Ok(())
    }

    /// Fails if the blob is there.
    pub(crate) fn expect_absent(&self, sha256: &str) -> Check {
        let response = self.read_path("GET", &format!("/{sha256}"), sha256)?.send()?;
        if matches!(response.status, 404 | 410 | 451) {
            return Ok(());
        }
        fail(format!("{}; expected 404, nothing was to be stored under this hash", response.summary()))
    }

    /// Fails unless the server still answers.
    pub(crate) fn expect_alive(&self) -> Check {
        self.get(&format!("/{}", "0".repeat(64))).send().map(|_| ()).map_err(|miss| match miss {
            TestError::Fail(text) => TestError::Fail(format!("the server does not answer any more: {text}")),
            skip => skip,
        })
    }

    pub(crate) fn delete_as(&self, sha256: &str, key: &Key) -> Result<Response, TestError> {
        let token = Token::new("delete").x(sha256);
        self.request("DELETE", &format!("/{sha256}")).token(&token, key).send()
    }

    /// Deletes what the tests have uploaded, as far as the server lets them.
    pub(crate) fn clean_up(&self) {
        for (sha256, key) in std::mem::take(&mut *lock(&self.uploaded)) {
            let _ = self.delete_as(&sha256, &key);
        }
    }
}

fn random_key() -> io::Result<Key> {
    loop {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        if let Some(key) = Key::new(secret) {
            return Ok(key);
        }
    }
}
