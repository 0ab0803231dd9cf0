//! The verification of a batch: range checks, challenges, authors, then the point sums, for authors with a comb ("warm") and
//! without ("cold").

use crate::authors::{AUTHOR_BYTES, AuthorSlot, Authors, COMB_BYTES, Known};
use crate::challenge;
use crate::curve::tables::Comb;
use crate::curve::{Outcome, Task, slow};
use crate::field::{AffinePoint, P, Words, is_below, words_from_be};
use crate::key_hash::{KeyMap, KeyState};
use crate::scalar::{is_reduced, negated, split};
use crate::tier::{Kernel, Tier};

/// Claims that are summed together: more share an inversion, fewer fit the CPU cache.
const CHUNK: usize = 64;
/// At most one comb is built for this many claims: it costs as much as three verifications of an unknown key, or six where
/// vector lanes are memory-bound. So an attacker cannot double the cost of claims by provoking combs.
const COMB_COST: usize = 6;
/// Valid claims of an author from which its comb is cached.
const COMB_CLAIMS_MIN: u32 = 3;

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
/// It owns its scratch memory and, optionally, an author cache, so keep one for each thread.
pub struct Verifier {
    tier: Tier,
    /// libsecp256k1 verifies a batch's claims of unknown authors if there are at most this many.
    fallback_max: usize,
    /// Claims since the last comb, at most [`COMB_COST`]: a comb may be made for that many claims. Carried over, so that
    /// small batches get combs too.
    claims_since_comb: usize,
    kernel: Option<Box<dyn Kernel>>,
    authors: Option<Authors>,
    /// Indices in `batch`, by key.
    author_indices: KeyMap<u32>,
    batch: Vec<BatchAuthor>,
    challenges: Vec<Words>,
    tasks: Vec<(Task, u32)>,
    #[cfg(test)]
    combs_made: usize,
}

/// An author in the current batch.
#[derive(Debug)]
struct BatchAuthor {
    key: [u8; 32],
    x: Words,
    /// Claims in the batch.
    claims: u32,
    point: Option<AffinePoint>,
    comb: Option<Comb>,
    /// Valid claims in the batch, once it has been verified.
    valid_claims: u32,
    /// Valid claims in earlier batches.
    valid_earlier: u32,
    /// Its slot in the author cache.
    slot: Option<AuthorSlot>,
    wants_comb: bool,
    has_new_comb: bool,
    /// Lifted in this batch.
    has_new_point: bool,
    /// Its claims are verified one by one ([`verify_with_fallback`]).
    uses_fallback: bool,
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
    /// A verifier on the fastest tier of this machine, without an author cache. If the feature `libsecp256k1` is on, claims of
    /// unknown authors are verified by libsecp256k1 where that is faster: few of them in a batch, or on
    /// [`Tier::Portable32`] all.
    ///
    /// The first verifier of a process computes tables of the generator, which takes a few milliseconds; on wasm32 the
    /// first batch that needs them does.
    pub fn new() -> Self {
        let tier = Tier::best();
        Verifier { fallback_max: tier.fallback_max(), ..Verifier::on(tier) }
    }

    /// A verifier that uses only the given tier; `None` if the machine lacks its instructions.
    pub fn with_tier(tier: Tier) -> Option<Self> {
        tier.is_available().then(|| Verifier::on(tier))
    }

    /// A verifier on a tier that is available. Inlined, so that a build for one tier has the code of that tier only.
    #[inline]
    fn on(tier: Tier) -> Self {
        Verifier {
            tier,
            fallback_max: 0,
            claims_since_comb: 0,
            kernel: tier.kernel(),
            authors: None,
            author_indices: KeyMap::with_hasher(KeyState::random()),
            batch: Vec::new(),
            challenges: Vec::new(),
            tasks: Vec::new(),
            #[cfg(test)]
            combs_made: 0,
        }
    }

    /// Caches authors within `bytes_max` bytes, evicting the least recently used: about 30 KB for an author with three or more
    /// valid signatures, 256 bytes for one with fewer. Invalid signatures do not change the cache. Zero turns it off.
    #[must_use]
    pub fn with_author_cache(mut self, bytes_max: usize) -> Self {
        let state = self.author_indices.hasher();
        self.authors = (bytes_max >= AUTHOR_BYTES).then(|| Authors::new(bytes_max, state.clone()));
        self
    }

    /// Hashes public keys under `seed`, which must be secret and random. Without it the seed is that of `std`'s hash
    /// maps, which is secret where the operating system has entropy; on wasm32-unknown-unknown it is predictable, so give
    /// one there. Call it before the first batch: it empties the author cache.
    #[must_use]
    pub fn with_hash_seed(mut self, seed: [u8; 16]) -> Self {
        self.author_indices = KeyMap::with_hasher(KeyState::new(seed));
        let bytes_max = self.authors.as_ref().map_or(0, Authors::bytes_max);
        self.with_author_cache(bytes_max)
    }

    /// The tier.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Size of the author cache in bytes.
    pub fn author_cache_bytes(&self) -> usize {
        self.authors.as_ref().map_or(0, Authors::bytes)
    }

    /// Sets `valid[i]` to whether `claims[i]` is valid, exactly as BIP340 and libsecp256k1 decide.
    ///
    /// # Panics
    /// If the lists differ in length.
    pub fn verify(&mut self, claims: &[Claim], valid: &mut [bool]) {
        assert_eq!(claims.len(), valid.len(), "one verdict for each claim");
        valid.fill(false);
        let Some(kernel) = &mut self.kernel else {
            return verify_with_fallback(claims, valid);
        };
        let kernel = &mut **kernel;
        self.author_indices.clear();
        self.batch.clear();
        self.tasks.clear();
        challenge::all(claims, &mut self.challenges);
        for (index, (claim, e)) in claims.iter().zip(&self.challenges).enumerate() {
            let Some((task, x)) = parse(index, claim, e) else { continue };
            let next = self.batch.len() as u32;
            let author = *self.author_indices.entry(claim.key).or_insert(next);
            if author == next {
                self.batch.push(BatchAuthor::new(claim.key, x));
            }
            self.batch[author as usize].claims += 1;
            self.tasks.push((task, author));
        }
        let keeps_combs =
            self.authors.as_ref().is_some_and(|authors| authors.bytes_max() >= AUTHOR_BYTES + COMB_BYTES);
        if let Some(authors) = &self.authors {
            look_up(&mut self.batch, authors);
        }
        let mut claims_since_comb = self.claims_since_comb + self.tasks.len();
        // Before verification any claim may be invalid, so an author gets a comb only if it has enough claims in this
        // batch.
        choose_combs(&mut self.batch, &mut claims_since_comb, |author| author.claims as usize >= COMB_COST);
        choose_fallbacks(&mut self.batch, self.fallback_max);
        lift(&mut self.batch, kernel, |author| !author.uses_fallback);
        make_combs(&mut self.batch, kernel);

        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for (task, author) in &self.tasks {
            let author = &self.batch[*author as usize];
            let index = task.index as usize;
            match (&author.comb, author.point) {
                _ if author.uses_fallback => {
                    verify_with_fallback(&claims[index..=index], &mut valid[index..=index])
                }
                (Some(comb), _) => warm.push((*task, &**comb)),
                (None, Some(point)) => cold.push((*task, point)),
                // No point has this x-coordinate.
                (None, None) => {}
            }
        }
        let mut decide = |task: &Task, outcome: Outcome| {
            valid[task.index as usize] = match outcome {
                Outcome::Valid => true,
                Outcome::Invalid => false,
                Outcome::Unknown => is_valid_by_reference(&claims[task.index as usize]),
            }
        };
        for chunk in warm.chunks(CHUNK) {
            kernel.warm(chunk, &mut decide);
        }
        for chunk in cold.chunks(CHUNK) {
            kernel.cold(chunk, &mut decide);
        }

        if let Some(authors) = &mut self.authors {
            for (task, author) in &self.tasks {
                self.batch[*author as usize].valid_claims += u32::from(valid[task.index as usize]);
            }
            if keeps_combs {
                let is_worth_one =
                    |author: &BatchAuthor| author.valid_claims > 0 && author.valid_total() >= COMB_CLAIMS_MIN;
                choose_combs(&mut self.batch, &mut claims_since_comb, is_worth_one);
                lift(&mut self.batch, kernel, |author| author.wants_comb);
                make_combs(&mut self.batch, kernel);
            }
            remember(&self.batch, authors, keeps_combs);
        }
        self.claims_since_comb = claims_since_comb.min(COMB_COST);
        #[cfg(test)]
        {
            self.combs_made += self.batch.iter().filter(|author| author.has_new_comb).count();
        }
    }
}

/// The numbers of a claim and the x-coordinate of its key; `None` if one is out of range.
fn parse(index: usize, claim: &Claim, e: &Words) -> Option<(Task, Words)> {
    let (r_bytes, s_bytes) = halves(&claim.signature);
    let (r, s, x) = (words_from_be(r_bytes), words_from_be(s_bytes), words_from_be(&claim.key));
    if !is_below(&r, &P) || !is_reduced(&s) || !is_below(&x, &P) {
        return None;
    }
    Some((Task { index: index as u32, r, s: split(&s), e: split(&negated(e)) }, x))
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
            valid_claims: 0,
            valid_earlier: 0,
            slot: None,
            wants_comb: false,
            has_new_comb: false,
            has_new_point: false,
            uses_fallback: false,
        }
    }

    fn valid_total(&self) -> u32 {
        self.valid_earlier.saturating_add(self.valid_claims)
    }
}

/// Looks up the authors in the cache.
fn look_up(batch: &mut [BatchAuthor], authors: &Authors) {
    for author in batch {
        if let Some((slot, known)) = authors.look_up(&author.key) {
            author.point = known.point;
            author.comb = known.comb;
            author.valid_earlier = known.valid_claims;
            author.slot = Some(slot);
        }
    }
}

/// Chooses authors for whom a comb is made, one for each [`COMB_COST`] claims since the last.
fn choose_combs(
    batch: &mut [BatchAuthor],
    claims_since_comb: &mut usize,
    is_worth_one: impl Fn(&BatchAuthor) -> bool,
) {
    for author in batch {
        author.wants_comb = author.comb.is_none() && *claims_since_comb >= COMB_COST && is_worth_one(author);
        if author.wants_comb {
            *claims_since_comb -= COMB_COST;
        }
    }
}

/// Leaves claims of authors without a comb to the fallback if they are few.
fn choose_fallbacks(batch: &mut [BatchAuthor], fallback_max: usize) {
    let is_cold = |author: &BatchAuthor| author.comb.is_none() && !author.wants_comb;
    let cold: usize =
        batch.iter().filter(|author| is_cold(author)).map(|author| author.claims as usize).sum();
    if cold <= fallback_max {
        for author in batch {
            author.uses_fallback = is_cold(author);
        }
    }
}

/// Lifts needed keys that are not cached. If no point has a key's x-coordinate, its author has none.
fn lift(batch: &mut [BatchAuthor], kernel: &mut dyn Kernel, is_needed: impl Fn(&BatchAuthor) -> bool) {
    let is_unknown = |author: &BatchAuthor| author.point.is_none() && is_needed(author);
    let unknown: Vec<usize> = (0..batch.len()).filter(|i| is_unknown(&batch[*i])).collect();
    if !unknown.is_empty() {
        let xs: Vec<Words> = unknown.iter().map(|i| batch[*i].x).collect();
        kernel.lift(&xs, &mut |i, point| {
            let author = &mut batch[unknown[i]];
            (author.point, author.has_new_point) = (point, point.is_some());
        });
    }
}

/// Makes the combs of the chosen authors.
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
            batch[*i].has_new_comb = true;
        }
    }
}

/// Caches authors with valid claims. Invalid claims neither add nor evict an author.
fn remember(batch: &[BatchAuthor], authors: &mut Authors, keeps_combs: bool) {
    let proven = || batch.iter().filter(|author| author.valid_claims > 0);
    for author in proven() {
        if let Some(slot) = author.slot {
            authors.count(slot, author.valid_claims);
        }
    }
    for author in proven() {
        let valid_claims = author.valid_total();
        // A comb made for this batch is cached only if the author has enough valid claims and the cache has room for combs.
        let comb = author.comb.clone().filter(|_| keeps_combs && valid_claims >= COMB_CLAIMS_MIN);
        if author.slot.is_none() || author.has_new_point || author.has_new_comb && comb.is_some() {
            authors.insert(&author.key, Known { point: author.point, comb, valid_claims });
        }
    }
}

/// Combs made together: more share an inversion, fewer need less memory.
const COMBS_AT_ONCE: usize = 8;

/// Verifies a claim for which the fast formulas met a special case.
fn is_valid_by_reference(claim: &Claim) -> bool {
    let (r, s) = halves(&claim.signature);
    let e = negated(&challenge::one(claim));
    let x = words_from_be(&claim.key);
    let mut point = None;
    crate::curve::cold::lift::<slow::F>(&[x], |_, found| point = found);
    point.is_some_and(|point| slow::is_valid(&point, &words_from_be(r), &words_from_be(s), &e))
}

/// Verifies claims one by one, with libsecp256k1.
#[cfg(feature = "libsecp256k1")]
fn verify_with_fallback(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = crate::libsecp256k1::is_valid(claim);
    }
}

/// Verifies claims one by one, with this crate's reference implementation.
#[cfg(not(feature = "libsecp256k1"))]
fn verify_with_fallback(claims: &[Claim], valid: &mut [bool]) {
    for (claim, valid) in claims.iter().zip(valid) {
        *valid = parse(0, claim, &challenge::one(claim)).is_some() && is_valid_by_reference(claim);
    }
}

// Signatures are made by libsecp256k1, which Miri cannot run, nor is it a dev-dependency on wasm32.
#[cfg(all(test, not(target_arch = "wasm32"), not(miri)))]
mod tests {
    use super::*;
    use secp256k1::{Keypair, schnorr};

    /// A claim of author `author`; `message` varies it.
    fn signed(author: u16, message: u16) -> Claim {
        let mut secret = [1; 32];
        secret[..2].copy_from_slice(&author.to_be_bytes());
        let keypair = Keypair::from_secret_bytes(secret).expect("in range");
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&message.to_be_bytes());
        let signature = schnorr::sign_no_aux_rand(&bytes, &keypair).to_byte_array();
        Claim { key: keypair.x_only_public_key().0.to_byte_array(), message: bytes, signature }
    }

    fn forged(author: u16, message: u16) -> Claim {
        let mut claim = signed(author, message);
        claim.signature[40] ^= 1;
        claim
    }

    /// Verifies, checks the verdicts and returns how many combs were made.
    fn combs_made(verifier: &mut Verifier, claims: &[Claim], are_valid: bool) -> usize {
        let before = verifier.combs_made;
        let mut valid = vec![!are_valid; claims.len()];
        verifier.verify(claims, &mut valid);
        assert!(valid.iter().all(|valid| *valid == are_valid), "{}", verifier.tier());
        verifier.combs_made - before
    }

    fn has_comb(verifier: &Verifier, author: u16) -> bool {
        let authors = verifier.authors.as_ref().expect("there is a cache");
        authors.look_up(&signed(author, 0).key).is_some_and(|(_, known)| known.comb.is_some())
    }

    /// The default verifier, and one for every tier with a kernel.
    fn verifiers(cache: usize) -> impl Iterator<Item = Verifier> {
        let tiers = Tier::ALL.iter().filter(|tier| **tier != Tier::Emulated);
        let named = tiers.filter_map(|tier| Verifier::with_tier(*tier).filter(|v| v.kernel.is_some()));
        std::iter::once(Verifier::new()).chain(named).map(move |v| v.with_author_cache(cache))
    }

    fn all(authors: std::ops::Range<u16>, message: u16, claim: fn(u16, u16) -> Claim) -> Vec<Claim> {
        authors.map(|author| claim(author, message)).collect()
    }

    #[test]
    fn a_hash_seed_is_that_of_both_tables_and_keeps_the_size_of_the_cache() {
        use std::hash::BuildHasher;
        let hash = |state: &KeyState| state.hash_one([7u8; 32]);
        let wanted = hash(&KeyState::new([9; 16]));
        for verifier in [
            Verifier::new().with_author_cache(1 << 20).with_hash_seed([9; 16]),
            Verifier::new().with_hash_seed([9; 16]).with_author_cache(1 << 20),
        ] {
            let authors = verifier.authors.as_ref().expect("an author cache");
            assert_eq!([hash(verifier.author_indices.hasher()), hash(authors.hasher())], [wanted; 2]);
            assert_eq!(authors.bytes_max(), 1 << 20);
        }
        assert!(Verifier::new().with_hash_seed([9; 16]).authors.is_none());
    }

    #[test]
    fn a_cache_too_small_for_combs_remembers_authors() {
        for mut verifier in verifiers(COMB_BYTES) {
            let claims: Vec<Claim> = (0..COMB_COST as u16).map(|message| signed(0, message)).collect();
            combs_made(&mut verifier, &claims, true);
            let knows = |verifier: &Verifier, author: u16| {
                let authors = verifier.authors.as_ref().expect("there is a cache");
                let (_, known) = authors.look_up(&signed(author, 0).key).expect("it is cached");
                assert!(known.comb.is_none());
                known.point.is_some()
            };
            assert!(knows(&verifier, 0), "{}", verifier.tier());
            // One whose first claim came alone, and was left to libsecp256k1, is lifted once.
            combs_made(&mut verifier, &[signed(1, 0)], true);
            combs_made(&mut verifier, &all(1..70, 1, signed), true);
            let is_left = verifier.fallback_max == usize::MAX;
            assert!(is_left || knows(&verifier, 1), "{}", verifier.tier());
        }
    }

    #[test]
    fn invalid_claims_evict_no_author() {
        // Room for a few combs.
        for mut verifier in verifiers(4 * (AUTHOR_BYTES + COMB_BYTES)) {
            for message in 0..COMB_COST as u16 {
                combs_made(&mut verifier, &[signed(0, message)], true);
            }
            assert!(has_comb(&verifier, 0));
            let bytes = verifier.author_cache_bytes();
            for message in 0..4 {
                for first in (1..1_000).step_by(64) {
                    let claims = all(first..first + 64, message, forged);
                    assert_eq!(combs_made(&mut verifier, &claims, false), 0);
                }
            }
            assert!(has_comb(&verifier, 0), "{}", verifier.tier());
            assert_eq!(verifier.author_cache_bytes(), bytes);
        }
    }

    #[test]
    fn invalid_claims_do_not_refresh_the_lru() {
        let mut verifier = Verifier::new().with_author_cache(3 * AUTHOR_BYTES);
        combs_made(&mut verifier, &[signed(0, 0)], true);
        combs_made(&mut verifier, &[signed(1, 0), signed(2, 0)], true);
        combs_made(&mut verifier, &[forged(0, 1)], false);
        combs_made(&mut verifier, &[signed(3, 0)], true);
        let authors = verifier.authors.as_ref().expect("there is a cache");
        let kept = |author| authors.look_up(&signed(author, 0).key).is_some();
        assert_eq!([0, 1, 2, 3].map(kept), [false, true, true, true]);
    }

    #[test]
    fn forged_third_claims_make_no_combs() {
        for mut verifier in verifiers(64 << 20) {
            for message in 0..2 {
                combs_made(&mut verifier, &all(0..64, message, forged), false);
                combs_made(&mut verifier, &all(100..164, message, signed), true);
            }
            // Nor do they after two valid ones.
            assert_eq!(combs_made(&mut verifier, &all(0..64, 2, forged), false), 0);
            assert_eq!(combs_made(&mut verifier, &all(100..164, 2, forged), false), 0);
            assert!(combs_made(&mut verifier, &all(100..164, 3, signed), true) > 0);
        }
    }

    #[test]
    fn combs_are_made_at_the_rate_of_claims() {
        for mut verifier in verifiers(64 << 20) {
            for message in 0..2 {
                combs_made(&mut verifier, &all(0..60, message, signed), true);
            }
            // Sixty claims are enough for one. Those left over before allow one more.
            let most = 60 / COMB_COST + 1;
            for message in 2..5 {
                let made = combs_made(&mut verifier, &all(0..60, message, signed), true);
                assert!((1..=most).contains(&made), "{}: {made} of {most}", verifier.tier());
            }
        }
    }

    #[test]
    fn claims_that_come_one_by_one_get_combs() {
        for mut verifier in verifiers(64 << 20) {
            for message in 0..COMB_COST as u16 {
                combs_made(&mut verifier, &[signed(0, message)], true);
            }
            assert!(has_comb(&verifier, 0), "{}", verifier.tier());
            assert_eq!(combs_made(&mut verifier, &[signed(0, 7)], true), 0);
        }
    }

    #[test]
    fn many_claims_of_one_author_share_a_comb_that_is_kept_if_they_hold() {
        for mut verifier in verifiers(64 << 20) {
            let claims =
                |claim: fn(u16, u16) -> Claim| -> Vec<Claim> { (0..6).map(|i| claim(0, i)).collect() };
            assert_eq!(combs_made(&mut verifier, &claims(forged), false), 1);
            assert_eq!(verifier.author_cache_bytes(), 0);
            assert_eq!(combs_made(&mut verifier, &claims(signed), true), 1);
            assert!(has_comb(&verifier, 0));
        }
    }
}
