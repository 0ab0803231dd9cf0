//! A batch from claims to verdicts: ranges, challenges, authors, then the sums, warm and cold.

use std::collections::HashMap;

use crate::authors::{AUTHOR_BYTES, Authors, COMB_BYTES, Known};
use crate::challenge;
use crate::curve::tables::Comb;
use crate::curve::{Outcome, Task, slow};
use crate::field::{Entry, P, Words, is_below, words_from_be};
use crate::scalar::{is_reduced, negated, split};
use crate::tier::{Kernel, Tier};

/// Claims that are summed together: more share an inversion, fewer stay in the cache.
const CHUNK: usize = 64;
/// Claims of an author, with those before it, from which a comb is made and kept.
const COMB_CLAIMS_MIN: u32 = 3;
/// Claims of an author in one batch from which a comb pays though it is not kept.
const COMB_CLAIMS_MIN_UNKEPT: u32 = 6;

/// One signature to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The x-only public key.
    pub key: [u8; 32],
    /// The message, 32 bytes, signed as it is.
    pub message: [u8; 32],
    /// The signature: r, then s.
    pub signature: [u8; 64],
}

/// Verifies batches of BIP340 signatures.
///
/// It owns the memory it computes in and, if asked, what it learned about authors, so keep one for each thread.
pub struct Verifier {
    tier: Tier,
    /// Claims of unknown authors that libsecp256k1 decides if a batch has no more of them.
    singly_max: usize,
    kernel: Option<Box<dyn Kernel>>,
    authors: Option<Authors>,
    places: HashMap<[u8; 32], u32>,
    batch: Vec<BatchAuthor>,
    challenges: Vec<Words>,
    tasks: Vec<(Task, u32)>,
}

/// An author in the batch at hand.
#[derive(Debug)]
struct BatchAuthor {
    key: [u8; 32],
    x: Words,
    /// Claims in the batch.
    claims: u32,
    point: Option<Entry>,
    comb: Option<Comb>,
    /// Claims, with those of earlier batches.
    seen: u32,
    is_known: bool,
    wants_comb: bool,
    /// Left to libsecp256k1.
    is_single: bool,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("tier", &self.tier)
            .field("authors", &self.authors.as_ref().map(Authors::len))
            .finish_non_exhaustive()
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier::new()
    }
}

impl Verifier {
    /// A verifier on the fastest tier of this machine, without an author cache. Where libsecp256k1 is at hand
    /// and faster, for very few claims of unknown authors, it decides.
    ///
    /// The first one of a process computes tables of the generator, a few milliseconds.
    pub fn new() -> Self {
        let tier = Tier::best();
        let verifier = Verifier::with_tier(tier).expect("the best tier is one that is there");
        Verifier { singly_max: tier.singly_max(), ..verifier }
    }

    /// A verifier on a tier of your choice and nothing else; none if the machine lacks its instructions.
    pub fn with_tier(tier: Tier) -> Option<Self> {
        tier.is_available().then(|| Verifier {
            tier,
            singly_max: 0,
            kernel: tier.kernel(),
            authors: None,
            places: HashMap::new(),
            batch: Vec::new(),
            challenges: Vec::new(),
            tasks: Vec::new(),
        })
    }

    /// Remembers authors within `bytes_max` bytes, the longest unused going first: about 30 KB for one who
    /// has signed three times or more, 256 bytes for others. Zero remembers none.
    #[must_use]
    pub fn with_author_cache(mut self, bytes_max: usize) -> Self {
        self.authors = (bytes_max >= AUTHOR_BYTES).then(|| Authors::new(bytes_max));
        self
    }

    /// The tier that computes.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Bytes that the author cache holds.
    pub fn author_cache_bytes(&self) -> usize {
        self.authors.as_ref().map_or(0, Authors::bytes)
    }

    /// Sets `valid[i]` to whether `claims[i]` holds, exactly as BIP340 and libsecp256k1 decide.
    ///
    /// # Panics
    /// If the lists differ in length.
    pub fn verify(&mut self, claims: &[Claim], valid: &mut [bool]) {
        assert_eq!(claims.len(), valid.len(), "a place for each verdict");
        valid.fill(false);
        let Some(kernel) = &mut self.kernel else {
            return verify_singly(claims, valid);
        };
        let kernel = &mut **kernel;
        self.places.clear();
        self.batch.clear();
        self.tasks.clear();
        challenge::all(claims, &mut self.challenges);
        for (place, (claim, e)) in claims.iter().zip(&self.challenges).enumerate() {
            let Some((task, x)) = parse(place, claim, e) else { continue };
            let next = self.batch.len() as u32;
            let author = *self.places.entry(claim.key).or_insert(next);
            if author == next {
                self.batch.push(BatchAuthor::new(claim.key, x));
            }
            self.batch[author as usize].claims += 1;
            self.tasks.push((task, author));
        }
        look_up(&mut self.batch, self.authors.as_mut());
        choose_singles(&mut self.batch, self.singly_max);
        lift_unknown(&mut self.batch, kernel);
        make_combs(&mut self.batch, kernel);
        if let Some(authors) = &mut self.authors {
            remember(&self.batch, authors);
        }

        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for (task, author) in &self.tasks {
            let author = &self.batch[*author as usize];
            let place = task.place as usize;
            match (&author.comb, author.point) {
                _ if author.is_single => verify_singly(&claims[place..=place], &mut valid[place..=place]),
                (Some(comb), _) => warm.push((*task, &**comb)),
                (None, Some(point)) => cold.push((*task, point)),
                // No point has this abscissa.
                (None, None) => {}
            }
        }
        let mut decide = |task: &Task, outcome: Outcome| {
            valid[task.place as usize] = match outcome {
                Outcome::Valid => true,
                Outcome::Invalid => false,
                Outcome::Unknown => holds_slowly(&claims[task.place as usize]),
            }
        };
        for chunk in warm.chunks(CHUNK) {
            kernel.warm(chunk, &mut decide);
        }
        for chunk in cold.chunks(CHUNK) {
            kernel.cold(chunk, &mut decide);
        }
    }
}

/// The numbers of a claim and the abscissa of its key; nothing if one is out of range.
fn parse(place: usize, claim: &Claim, e: &Words) -> Option<(Task, Words)> {
    let (r_bytes, s_bytes) = halves(&claim.signature);
    let (r, s, x) = (words_from_be(r_bytes), words_from_be(s_bytes), words_from_be(&claim.key));
    if !is_below(&r, &P) || !is_reduced(&s) || !is_below(&x, &P) {
        return None;
    }
    Some((Task { place: place as u32, r, s: split(&s), e: split(&negated(e)) }, x))
}

fn halves(signature: &[u8; 64]) -> (&[u8; 32], &[u8; 32]) {
    let (halves, _) = signature.as_chunks::<32>();
    (&halves[0], &halves[1])
}

impl BatchAuthor {
    fn new(key: [u8; 32], x: Words) -> Self {
        BatchAuthor {
            key,
            x,
            claims: 0,
            point: None,
            comb: None,
            seen: 0,
            is_known: false,
            wants_comb: false,
            is_single: false,
        }
    }
}

/// Finds what is known of the authors, and who is worth a comb.
fn look_up(batch: &mut [BatchAuthor], mut authors: Option<&mut Authors>) {
    let keeps_combs =
        authors.as_ref().is_some_and(|authors| authors.bytes_max() >= AUTHOR_BYTES + COMB_BYTES);
    for author in batch {
        author.seen = author.claims;
        if let Some(known) = authors.as_mut().and_then(|authors| authors.look_up(&author.key, author.claims))
        {
            author.point = known.point;
            author.comb = known.comb;
            author.seen = known.seen;
            author.is_known = true;
        }
        let is_often =
            author.claims >= COMB_CLAIMS_MIN_UNKEPT || keeps_combs && author.seen >= COMB_CLAIMS_MIN;
        author.wants_comb = author.comb.is_none() && is_often;
    }
}

/// Leaves claims that would have to be computed from scratch to libsecp256k1 if they are few.
fn choose_singles(batch: &mut [BatchAuthor], singly_max: usize) {
    let is_cold = |author: &BatchAuthor| author.comb.is_none() && !author.wants_comb;
    let cold: usize =
        batch.iter().filter(|author| is_cold(author)).map(|author| author.claims as usize).sum();
    if cold <= singly_max {
        for author in batch {
            author.is_single = is_cold(author);
        }
    }
}

/// Lifts keys that are needed and not known. An abscissa without a point leaves its author without one.
fn lift_unknown(batch: &mut [BatchAuthor], kernel: &mut dyn Kernel) {
    let is_needed = |author: &BatchAuthor| author.point.is_none() && !author.is_single;
    let unknown: Vec<usize> = (0..batch.len()).filter(|i| is_needed(&batch[*i])).collect();
    if !unknown.is_empty() {
        let xs: Vec<Words> = unknown.iter().map(|i| batch[*i].x).collect();
        kernel.lift(&xs, &mut |i, point| batch[unknown[i]].point = point);
    }
}

/// Makes combs of the authors that are worth one.
fn make_combs(batch: &mut [BatchAuthor], kernel: &mut dyn Kernel) {
    let (mut chosen, mut points) = (Vec::new(), Vec::new());
    for (i, author) in batch.iter().enumerate() {
        if let (true, Some(point)) = (author.wants_comb, author.point) {
            chosen.push(i);
            points.push(point);
        }
    }
    for (chosen, points) in chosen.chunks(COMBS_AT_ONCE).zip(points.chunks(COMBS_AT_ONCE)) {
        for (i, comb) in chosen.iter().zip(kernel.combs(points)) {
            batch[*i].comb = Some(comb);
        }
    }
}

/// Remembers new authors and new combs. Keys without a point are not remembered.
fn remember(batch: &[BatchAuthor], authors: &mut Authors) {
    for author in batch {
        let is_author = author.point.is_some() || author.is_single;
        if is_author && (!author.is_known || author.wants_comb) {
            let known = Known { point: author.point, comb: author.comb.clone(), seen: author.seen };
            authors.insert(&author.key, known);
        }
    }
}

/// Combs made together: more share inversions, fewer need less memory.
const COMBS_AT_ONCE: usize = 16;

/// What the fast ways leave undecided.
fn holds_slowly(claim: &Claim) -> bool {
    let (r, s) = halves(&claim.signature);
    let e = negated(&challenge::one(claim));
    let x = words_from_be(&claim.key);
    let mut point = None;
    crate::curve::cold::lift::<slow::F>(&[x], |_, found| point = found);
    point.is_some_and(|point| slow::holds(&point, &words_from_be(r), &words_from_be(s), &e))
}

#[cfg(all(feature = "libsecp256k1", not(target_arch = "wasm32")))]
fn verify_singly(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = crate::libsecp256k1::holds(claim);
    }
}

#[cfg(not(all(feature = "libsecp256k1", not(target_arch = "wasm32"))))]
fn verify_singly(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = parse(0, claim, &challenge::one(claim)).is_some() && holds_slowly(claim);
    }
}
