//! The memory of this isolate, which all its objects share: they are of one WebAssembly instance.

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const PAGE_BYTES: u64 = 64 << 10;

/// Bytes that are allocated now.
pub(super) fn used_bytes() -> u64 {
    ALLOCATOR.allocated() as u64
}

/// Bytes of the WebAssembly memory, as the platform counts it. It never shrinks.
pub(super) fn reserved_bytes() -> u64 {
    core::arch::wasm32::memory_size::<0>() as u64 * PAGE_BYTES
}
