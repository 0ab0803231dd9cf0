//! `cargo fuzz run filters`: see [`relay_fuzz::filters`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::filters(data));

#[cfg(not(fuzzing))]
fn main() {
    relay_fuzz::replay(relay_fuzz::filters);
}
