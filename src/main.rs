//! The `hookstream` program: its allocator, and nothing else. `hookstream::main` is where it begins.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hookstream::main()
}
