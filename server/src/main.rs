//! The relay's binary; everything but the choice of the allocator is in the library.

use std::process::ExitCode;

/// Gives memory that was freed back to the system within ten seconds, by threads of its own. glibc keeps it: after an
/// attack of which nothing was left, 208 MB stayed resident, with this one 20 (`bench/README.md`).
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    relay_server::cli::main()
}
