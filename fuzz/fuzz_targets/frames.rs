//! `cargo fuzz run frames`: see [`relay_fuzz::frames`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::frames(data));

#[cfg(not(fuzzing))]
fn main() {
    relay_fuzz::replay(relay_fuzz::frames);
}
