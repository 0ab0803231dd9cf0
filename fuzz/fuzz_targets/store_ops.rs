//! `cargo fuzz run store_ops`: see [`relay_fuzz::store_ops`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::store_ops(data));

#[cfg(not(fuzzing))]
fn main() {
    relay_fuzz::replay(relay_fuzz::store_ops);
}
