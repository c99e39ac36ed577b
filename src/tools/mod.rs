//! What people run beside the service: not on the path of an event.

pub mod demo;
