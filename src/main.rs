//! The `hookstream` program: arguments, logs, start, signals, exit code.

fn main() {}
