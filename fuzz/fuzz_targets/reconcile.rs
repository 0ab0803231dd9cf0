//! `cargo fuzz run reconcile`: see [`relay_fuzz::reconcile`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| relay_fuzz::reconcile(data));

#[cfg(not(fuzzing))]
fn main() {
    relay_fuzz::replay(relay_fuzz::reconcile);
}
