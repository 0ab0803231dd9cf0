//! SHA-256 of many messages, such as event ids: eight at a time in vector lanes on x86-64 processors with AVX2 but without
//! SHA-256 instructions, else one after another by `sha2`.

#[cfg(target_arch = "x86_64")]
pub(crate) mod lanes;

use sha2::Digest;

/// FIPS 180-4, 5.3.3.
pub(crate) const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Whether [`digest_all`] hashes messages in vector lanes on this machine, so that it pays to collect them.
pub fn uses_simd_lanes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return lanes::is_worthwhile();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sets `hashes[i]` to the SHA-256 of `messages[i]`.
///
/// # Panics
/// If the lists are not equally long.
pub fn digest_all(messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
    assert_eq!(messages.len(), hashes.len(), "one hash for each message");
    #[cfg(target_arch = "x86_64")]
    if lanes::is_worthwhile() {
        return in_lanes(messages, hashes);
    }
    for (hash, message) in hashes.iter_mut().zip(messages) {
        *hash = sha2::Sha256::digest(message).into();
    }
}

/// The bytes of a final state.
pub(crate) fn bytes(state: &[u32; 8]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}

#[cfg(target_arch = "x86_64")]
fn in_lanes(messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
    // Messages of the same length together: a lane whose message has ended is idle.
    let mut order: Vec<u32> = (0..messages.len() as u32).collect();
    order.sort_unstable_by_key(|at| std::cmp::Reverse(messages[*at as usize].len()));
    for group in order.chunks(lanes::LANES) {
        let mut states = lanes::State::from(&START);
        let mut words = [[0; lanes::LANES]; 16];
        let mut live = group.len();
        let mut block = 0;
        while live >= lanes::WORTH_FROM {
            for (lane, at) in group[..live].iter().enumerate() {
                lanes::set(&mut words, lane, &block_of(messages[*at as usize], block));
            }
            states.compress(&words);
            block += 1;
            while live > 0 && block == blocks(messages[group[live - 1] as usize]) {
                live -= 1;
                hashes[group[live] as usize] = bytes(&states.of(live));
            }
        }
        for (lane, at) in group[..live].iter().enumerate() {
            let message = messages[*at as usize];
            let mut state = states.of(lane);
            for block in block..blocks(message) {
                sha2::block_api::compress256(&mut state, &[block_of(message, block)]);
            }
            hashes[*at as usize] = bytes(&state);
        }
    }
}

/// Blocks of a message and its padding.
#[cfg(target_arch = "x86_64")]
fn blocks(message: &[u8]) -> usize {
    (message.len() + 9).div_ceil(64)
}

/// A block of a message, padded if it is one of the last two.
#[cfg(target_arch = "x86_64")]
fn block_of(message: &[u8], number: usize) -> [u8; 64] {
    let start = number * 64;
    if let Some((block, _)) = message.get(start..).and_then(<[u8]>::split_first_chunk) {
        return *block;
    }
    let mut block = [0; 64];
    if let Some(rest) = message.get(start..) {
        block[..rest.len()].copy_from_slice(rest);
        block[rest.len()] = 0x80;
    }
    if number + 1 == blocks(message) {
        block[56..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    }
    block
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn check(messages: &[Vec<u8>]) {
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let mut hashes = vec![[0; 32]; slices.len()];
        in_lanes(&slices, &mut hashes);
        for (message, hash) in slices.iter().zip(hashes) {
            assert_eq!(hash, <[u8; 32]>::from(sha2::Sha256::digest(message)), "{} bytes", message.len());
        }
    }

    fn has_lanes() -> bool {
        if !lanes::is_available() {
            eprintln!("no AVX2: nothing was compared");
        }
        lanes::is_available()
    }

    #[test]
    #[cfg_attr(miri, ignore = "vector instructions")]
    fn messages_of_every_length_around_a_block() {
        if has_lanes() {
            for count in [0, 1, 2, 3, 7, 8, 9, 17] {
                for len in 0..200 {
                    check(&(0..count).map(|i| vec![(i * 31 + len) as u8; len + i % 3]).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "vector instructions")]
    fn messages_of_all_lengths() {
        if has_lanes() {
            let mut state = 1u64;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % bound
            };
            for _ in 0..200 {
                let count = below(40);
                // Some are much longer than the rest.
                let mut message = || {
                    let longest = [70, 700, 7_000][below(3) as usize];
                    (0..below(longest)).map(|_| below(256) as u8).collect()
                };
                check(&(0..count).map(|_| message()).collect::<Vec<_>>());
            }
        }
    }

    /// `cargo test --release -p relay-schnorr --lib ids_compared -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn ids_compared_with_sha2() {
        // Lengths typical of events.
        let messages: Vec<Vec<u8>> = (0..64usize).map(|i| vec![i as u8; 200 + (i * 37) % 900]).collect();
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let mut hashes = vec![[0; 32]; slices.len()];
        let mut time = |hash: &mut dyn FnMut(&mut [[u8; 32]])| {
            let mut rounds: Vec<u128> = Vec::new();
            for _ in 0..200 {
                let start = std::time::Instant::now();
                (0..20).for_each(|_| hash(&mut hashes));
                rounds.push(start.elapsed().as_nanos() / (20 * 64));
            }
            rounds.sort_unstable();
            rounds[100]
        };
        let alone = time(&mut |out| {
            out.iter_mut().zip(&slices).for_each(|(hash, text)| *hash = sha2::Sha256::digest(text).into());
        });
        let lanes = time(&mut |out| in_lanes(&slices, out));
        let bytes = slices.iter().map(|text| text.len()).sum::<usize>() / 64;
        eprintln!("an id of {bytes} bytes takes {alone} ns by sha2 on this machine, {lanes} ns in lanes");
    }
}
