//! The relay's binary; everything but the choice of the allocator is in the library.

use std::process::ExitCode;

/// Gives freed memory back to the system; glibc's allocator keeps most of it (`bench/README.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    relay_server::cli::main()
}
