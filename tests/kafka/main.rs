//! The suite that runs against a real Kafka: started here with Java and Maven, or named by `HOOKSTREAM_TEST_BROKERS`.

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../support/mod.rs"]
mod support;

mod harness;
