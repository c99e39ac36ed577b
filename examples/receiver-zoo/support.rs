//! The zoo and what it is made of, from the test suites.

#[path = "../../tests/support/port.rs"]
pub mod port;
#[path = "../../tests/support/receiver.rs"]
pub mod receiver;
#[path = "../../tests/support/wait.rs"]
pub mod wait;
#[path = "../../tests/support/zoo/mod.rs"]
pub mod zoo;
