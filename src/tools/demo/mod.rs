//! demo
pub mod account;
pub mod sample;
