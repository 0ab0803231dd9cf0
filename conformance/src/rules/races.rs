//! What happens at once: many uploads, one blob from many clients, uploads against deletes, slow readers.

use std::time::Duration;

use crate::blob::Blob;
use crate::context::Context;
use crate::http::Response;
use crate::suite::Strength::{Must, Practice, Safety};
use crate::suite::{Rule, TestError, ensure, fail, rule};

const UPLOADS: &str = "BUD-02 concurrency";
const DELETES: &str = "BUD-12 concurrency";

/// Rounds of each race.
const ROUNDS: usize = 8;

pub(super) const RULES: &[Rule] = &[
    rule("race-many", UPLOADS, Practice, "100 small uploads at once all succeed", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blobs: Vec<Blob> = (0..100).map(|at| ctx.blob(100 + at)).collect();
        let results = at_once(&blobs, |blob| ctx.upload(blob));
        for result in results {
            result?.expect(&[201])?;
        }
        blobs.iter().try_for_each(|blob| ctx.expect_served(blob))
    }),
    rule(
        "race-same",
        UPLOADS,
        Must,
        "of uploads of one blob at once one is 201, the others are 200",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            for _ in 0..ROUNDS {
                let blob = ctx.blob(2000);
                let results = at_once(&[(); 6], |()| ctx.upload(&blob));
                let mut created = 0;
                for result in results {
                    created += usize::from(result?.expect(&[200, 201])?.status == 201);
                }
                ensure(created == 1, || {
                    format!("6 uploads at once of {}: {created} times 201", blob.sha256)
                })?;
                ctx.expect_served(&blob)?;
            }
            Ok(())
        },
    ),
    rule(
        "race-same-slow",
        UPLOADS,
        Safety,
        "an upload that breaks off does not take another's blob along",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob(2000);
            let request = super::integrity::put(ctx, &blob);
            let mut connection = ctx.connect()?;
            connection.send_body(&request.head_bytes(&ctx.server));
            connection.send_body(&blob.bytes[..1000]);
            std::thread::sleep(ctx.options.body_pause.min(Duration::from_millis(200)));
            ctx.upload(&blob)?.expect(&[201])?;
            drop(connection);
            std::thread::sleep(ctx.options.body_pause.min(Duration::from_millis(200)));
            ctx.expect_served(&blob)
        },
    ),
    rule("race-delete", DELETES, Safety, "an upload against a delete: the blob is whole, or gone", |ctx| {
        super::tokens::deletable(ctx)?;
        for _ in 0..ROUNDS {
            let blob = ctx.stored(2000)?;
            let results = at_once(&[true, false, true, false], |is_upload| {
                if *is_upload { ctx.upload(&blob) } else { ctx.delete_as(&blob.sha256, &ctx.key) }
            });
            for result in results {
                // 503: the upload has lost against both deletes, and is to be begun again.
                result?.expect(&[200, 201, 204, 404, 503])?;
            }
            whole_or_gone(ctx, &blob)?;
            // What the server said last is so: an upload after the race is served.
            ctx.upload(&blob)?.expect(&[200, 201])?;
            ctx.expect_served(&blob)?;
        }
        Ok(())
    }),
    rule("race-delete-list", DELETES, Safety, "after such a race lists and blobs agree", |ctx| {
        super::list::offered(ctx)?;
        super::tokens::deletable(ctx)?;
        for _ in 0..ROUNDS {
            let blob = ctx.stored(500)?;
            let results = at_once(&[true, false], |is_upload| {
                if *is_upload { ctx.upload(&blob) } else { ctx.delete_as(&blob.sha256, &ctx.key) }
            });
            results.into_iter().try_for_each(|result| result.map(|_| ()))?;
            let listed = super::list::all(ctx, &ctx.key)?.contains(&blob.sha256);
            let served = whole_or_gone(ctx, &blob)?;
            ensure(listed == served, || format!("{}: listed {listed}, served {served}", blob.sha256))?;
        }
        Ok(())
    }),
    rule("race-delete-read", DELETES, Safety, "a read against a delete is whole, or 404", |ctx| {
        super::tokens::deletable(ctx)?;
        for _ in 0..ROUNDS {
            let blob = ctx.stored(100_000)?;
            let results = at_once(&[0, 1, 2, 3, 4], |number| {
                if *number == 2 {
                    return ctx.delete_as(&blob.sha256, &ctx.key);
                }
                ctx.download(&blob.sha256)
            });
            for (number, result) in results.into_iter().enumerate() {
                let response = result?;
                if number != 2 && response.status != 404 {
                    response.expect(&[200])?;
                    response.ensure(response.body == blob.bytes, "other bytes than the blob's")?;
                }
            }
            ctx.expect_absent(&blob.sha256)?;
        }
        Ok(())
    }),
    rule("race-owners", DELETES, Safety, "concurrent deletes by all owners delete the blob", |ctx| {
        super::tokens::deletable(ctx)?;
        for _ in 0..ROUNDS {
            let blob = ctx.stored(500)?;
            ctx.store_second(&blob)?;
            let results = at_once(&[&ctx.key, &ctx.second], |key| ctx.delete_as(&blob.sha256, key));
            for result in results {
                result?.expect(&[200, 204])?;
            }
            ctx.expect_absent(&blob.sha256)?;
        }
        Ok(())
    }),
    rule(
        "race-owner-joins",
        DELETES,
        Safety,
        "who uploads while the only owner deletes has the blob, or is told to send it again",
        |ctx| {
            super::tokens::deletable(ctx)?;
            for _ in 0..ROUNDS {
                let blob = ctx.stored(500)?;
                ctx.store_second(&ctx.blob(5))?;
                let results = at_once(&[true, false], |joins| {
                    if *joins {
                        return ctx.upload_as(&blob, &ctx.second);
                    }
                    ctx.delete_as(&blob.sha256, &ctx.key)
                });
                let mut must_repeat = false;
                for result in results {
                    let response = result?;
                    // A server that only compares the bytes of a blob that it has may need them again.
                    let is_retry = response.status == 503 && response.header("retry-after").is_some();
                    must_repeat |= is_retry;
                    if !is_retry {
                        response.expect(&[200, 201, 204])?;
                    }
                }
                if must_repeat {
                    ctx.upload_as(&blob, &ctx.second)?.expect(&[200, 201])?;
                }
                ctx.expect_served(&blob)?;
            }
            Ok(())
        },
    ),
    rule("race-slow-reader", "BUD-01 concurrency", Safety, "slow readers do not block others", |ctx| {
        let blob = ctx.stored(2 << 20)?;
        let mut idle = Vec::new();
        for _ in 0..20 {
            let mut connection = ctx.connect()?;
            connection.send_body(&ctx.read(&blob)?.bytes());
            idle.push(connection);
        }
        ctx.expect_served(&ctx.blob_of_1000_bytes()?)?;
        ctx.upload(&ctx.blob(100))?.expect(&[201]).map(|_| ())
    }),
    rule("race-slow-writer", UPLOADS, Safety, "stalled uploads do not block others", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let mut idle = Vec::new();
        for _ in 0..20 {
            let mut connection = ctx.connect()?;
            connection.send_body(&super::integrity::put(ctx, &ctx.blob(500)).head_bytes(&ctx.server));
            idle.push(connection);
        }
        ctx.expect_served(&ctx.blob_of_1000_bytes()?)?;
        ctx.upload(&ctx.blob(100))?.expect(&[201]).map(|_| ())
    }),
];

/// Does `act` for every item, each on a thread, at once.
fn at_once<T: Sync>(
    items: &[T],
    act: impl Fn(&T) -> Result<Response, TestError> + Sync,
) -> Vec<Result<Response, TestError>> {
    let start = std::sync::Barrier::new(items.len());
    std::thread::scope(|scope| {
        let (act, start) = (&act, &start);
        let spawn = |item| {
            scope.spawn(move || {
                start.wait();
                act(item)
            })
        };
        let threads: Vec<_> = items.iter().map(spawn).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(TestError::Fail("a thread of the suite panicked".to_owned())))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Whether the blob is served; fails if it is neither whole nor gone.
fn whole_or_gone(ctx: &Context, blob: &Blob) -> Result<bool, TestError> {
    let response = ctx.download(&blob.sha256)?;
    match response.status {
        200 if response.body == blob.bytes => Ok(true),
        404 | 410 => Ok(false),
        _ => fail(format!("{}; neither the blob nor 404", response.summary())),
    }
}
