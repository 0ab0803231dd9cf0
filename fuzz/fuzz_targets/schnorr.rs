//! `cargo fuzz run schnorr`: see [`relay_fuzz::schnorr`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::schnorr(data));

#[cfg(not(fuzzing))]
fn main() {
    relay_fuzz::replay(relay_fuzz::schnorr);
}
