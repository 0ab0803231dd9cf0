//! Pictures on their way through `/media`: how many bytes of them are in memory, and how many are processed, at a time.

use hyper::body::Bytes;
use relay_blossom::exchange::{Processed, StepError};
use relay_blossom::media;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pictures that are processed at a time. Each may take 256 MiB beside its bytes, and a processor.
const CONCURRENT_MAX: usize = 2;
/// MiB of pictures in memory at a time; further ones wait before anything of them is read.
const MEMORY_MIB: u32 = 256;
const MIB: u64 = 1 << 20;

/// See the module.
pub(super) struct Media {
    processing: Semaphore,
    memory: Semaphore,
}

impl Media {
    pub(super) fn new() -> Self {
        Media { processing: Semaphore::new(CONCURRENT_MAX), memory: Semaphore::new(MEMORY_MIB as usize) }
    }

    /// Waits until there is room for a body of so many bytes, which is taken until the permit is dropped. Bodies of less than a
    /// MiB do not wait.
    pub(super) async fn reserve(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        if bytes < MIB {
            return None;
        }
        let wanted = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX).min(MEMORY_MIB);
        self.memory.acquire_many(wanted).await.ok()
    }

    /// Processes a picture on a thread that serves nobody else.
    pub(super) async fn process(&self, bytes: Bytes, mime: String) -> Result<Processed, StepError> {
        let _permit = self.processing.acquire().await;
        let processed = tokio::task::spawn_blocking(move || media::process(&bytes, &mime)).await;
        processed.unwrap_or_else(|error| {
            tracing::error!(%error, "a picture could not be processed");
            Err(StepError::Unprocessable("the picture cannot be decoded".to_owned()))
        })
    }
}
