//! Blobs in a bucket: an S3 server in this process (`s3s-fs`), which keeps its objects in a folder.

use std::path::PathBuf;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;

const BUCKET: &str = "blobs";
const SECRET: &str = "a-secret-that-is-not-shown";

/// An S3 server with one bucket.
struct Bucket {
    folder: TempDir,
    endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

impl Bucket {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("id", SECRET));
        let service = service.build();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(connection);
            }
        });
        Bucket { folder, endpoint, _runtime: runtime }
    }

    /// A relay that keeps its blobs there.
    fn relay(&self) -> RelayProcess {
        let Bucket { endpoint, .. } = self;
        RelayProcess::start_with(&format!(
            "[blobs]\nbucket = '{BUCKET}'\nendpoint = '{endpoint}'\nregion = 'us-east-1'\nprefix = 'relay/files'\n\
             access_key_id = 'id'\nsecret_access_key = '{SECRET}'\nallow_http = true\n"
        ))
    }

    /// The objects, by their path below the prefix.
    fn objects(&self) -> Vec<String> {
        let below: PathBuf = self.folder.path().join(BUCKET).join("relay/files");
        let prefix = format!("{}/", below.display());
        let mut objects: Vec<_> =
            files(&below).into_iter().map(|path| path.strip_prefix(&prefix).unwrap().to_owned()).collect();
        objects.sort();
        objects
    }

    /// What is left of uploads in parts, anywhere.
    fn parts(&self) -> Vec<String> {
        files(self.folder.path()).into_iter().filter(|path| path.contains("upload_id-")).collect()
    }
}

#[test]
fn blobs_are_kept_in_a_bucket() {
    let bucket = Bucket::start();
    let mut relay = bucket.relay();
    // Less than a part, several parts with a rest, and whole parts only.
    for (number, length) in [(1, 1_000), (2, (12 << 20) + 7), (3, 10 << 20)] {
        let bytes = noise(number, length);
        let hash = sha256(&bytes);
        let stored = upload(&relay, OWNER, &bytes);
        assert_eq!(stored.outcome(), (201, ""), "{length}");
        assert_eq!(stored.json()["size"], length);
        assert_eq!(bucket.objects(), [format!("{}/{hash}", &hash[..2])]);
        assert!(!relay.data().join("blobs").exists(), "nothing of it is in the data folder");
        assert!(get(&relay, &hash).body == bytes, "{length}");
        let range = send(&relay, "GET", &format!("/{hash}"), "Range: bytes=500-899\r\n", b"");
        assert_eq!((range.status, &range.body[..]), (206, &bytes[500..900]));
        assert_eq!(upload(&relay, OWNER, &bytes).status, 200, "it is there already");
        assert_eq!(delete(&relay, OWNER, &hash).status, 204);
        assert_eq!(get(&relay, &hash).status, 404);
        until("the object goes", || bucket.objects().is_empty());
        assert_eq!(bucket.parts(), Vec::<String>::new());
    }
    assert!(relay.stop().success());
}

#[test]
fn what_fails_leaves_nothing_in_a_bucket() {
    let bucket = Bucket::start();
    let relay = bucket.relay();
    for length in [1_000, (12 << 20) + 7] {
        let bytes = noise(4, length);
        let other = sha256(b"another");
        let refused = send(&relay, "PUT", "/upload", &announced(OWNER, &other, length), &bytes);
        assert_eq!(refused.status, 409, "{length}: {}", refused.outcome().1);
        let mut ended = begin(&relay, "PUT", "/upload", &announced(OWNER, &sha256(&bytes), length));
        ended.write_all(&bytes[..length - 5]).unwrap();
        ended.shutdown(std::net::Shutdown::Both).unwrap();
        until("what came of it goes", || bucket.objects().is_empty() && bucket.parts().is_empty());
        assert_eq!(get(&relay, &sha256(&bytes)).status, 404);
    }
}

#[test]
fn a_bucket_keeps_blobs_over_kills_and_foreign_objects_are_left_alone() {
    let bucket = Bucket::start();
    let mut relay = bucket.relay();
    let bytes = noise(5, 6 << 20);
    let hash = sha256(&bytes);
    assert_eq!(upload(&relay, OWNER, &bytes).status, 201);
    // One that this index does not know.
    let foreign = sha256(b"foreign");
    let folder = bucket.folder.path().join(BUCKET).join("relay/files").join(&foreign[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(&foreign), b"foreign").unwrap();
    // An upload is killed when it has sent a part.
    let cut = noise(6, 12 << 20);
    let mut stream = begin(&relay, "PUT", "/upload", &announced(OWNER, &sha256(&cut), cut.len()));
    stream.write_all(&cut[..11 << 20]).unwrap();
    relay.kill();
    relay.restart();
    assert!(get(&relay, &hash).body == bytes);
    assert_eq!(get(&relay, &sha256(&cut)).status, 404);
    assert_eq!(get(&relay, &foreign).status, 404);
    let mut kept = [hash, foreign].map(|hash| format!("{}/{hash}", &hash[..2]));
    kept.sort();
    assert_eq!(bucket.objects(), kept);
    assert_eq!(upload(&relay, OWNER, &cut).status, 201);
}
