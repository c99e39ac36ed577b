//! The `hookstream` program: only its allocator. It begins in `hookstream::main`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hookstream::main()
}
