//! Lists of subcommands that take the same options.

use super::super::command::Subcommand;
use Subcommand::{
    Api, Attempts, Check, Console, DeadLettersList, DeadLettersRedrive, DeadLettersShow, Demo, Explain, Health,
    Integrations, Receiver, Replay, ResumeRequest, TopicsApply, TopicsPlan, Trace, Worker,
};

/// Subcommands that log.
pub(super) const EVERY: &[Subcommand] = &[
    Worker,
    Api,
    Console,
    Demo,
    Receiver,
    TopicsPlan,
    TopicsApply,
    DeadLettersList,
    DeadLettersShow,
    DeadLettersRedrive,
    Replay,
    ResumeRequest,
    Explain,
    Integrations,
    Health,
    Attempts,
    Trace,
    Check,
];
/// The demo's own view says what the others log.
pub(super) const NOT_DEMO: &[Subcommand] = &[
    Worker,
    Api,
    Console,
    Receiver,
    TopicsPlan,
    TopicsApply,
    DeadLettersList,
    DeadLettersShow,
    DeadLettersRedrive,
    Replay,
    ResumeRequest,
    Explain,
    Integrations,
    Health,
    Attempts,
    Trace,
    Check,
];
/// Subcommands that connect to a cluster.
pub(super) const CLUSTER: &[Subcommand] = &[
    Worker,
    Api,
    Console,
    TopicsPlan,
    TopicsApply,
    DeadLettersList,
    DeadLettersShow,
    DeadLettersRedrive,
    Replay,
    ResumeRequest,
    Explain,
    Integrations,
    Health,
    Attempts,
    Trace,
    Check,
];
/// Subcommands that need the tiers of a cluster.
pub(super) const TIERS: &[Subcommand] = &[
    Worker,
    Api,
    Console,
    TopicsPlan,
    TopicsApply,
    DeadLettersList,
    DeadLettersShow,
    DeadLettersRedrive,
    Replay,
    ResumeRequest,
    Explain,
    Integrations,
    Health,
    Attempts,
    Trace,
    Check,
];
/// Subcommands that check or create topics.
pub(super) const SHAPES: &[Subcommand] = &[Worker, TopicsPlan, TopicsApply, Check];
pub(super) const DELIVERING: &[Subcommand] = &[Worker, Demo];
/// Subcommands that make requests: the API sends test deliveries.
pub(super) const REQUESTING: &[Subcommand] = &[Worker, Api, Demo];
pub(super) const SERVING_API: &[Subcommand] = &[Api, Demo];
/// Subcommands that ask for tokens, or check the files that hold them.
pub(super) const API_FILES: &[Subcommand] = &[Api, Console, Demo, Check];
pub(super) const SERVING_CONSOLE: &[Subcommand] = &[Console, Demo];
/// Subcommands that run until they are stopped, with metrics and probes.
pub(super) const RUNNING: &[Subcommand] = &[Worker, Api, Console, Demo];
pub(super) const FILTERING: &[Subcommand] = &[DeadLettersList, DeadLettersRedrive];
pub(super) const NAMING: &[Subcommand] = &[Replay, ResumeRequest, Explain];
/// Subcommands that answer with rows of the readers.
pub(super) const READING: &[Subcommand] = &[Integrations, Health, Attempts];
pub(super) const TABLES: &[Subcommand] = READING;
pub(super) const SENDING: &[Subcommand] = &[DeadLettersRedrive, Replay];
