//! Why a record of the integrations topic is rejected: one variant a rule, and the part of the record at fault.
//!
//! The texts never hold a secret of the record.

use super::period::BadPeriod;
use crate::domain::target::BadUrl;

/// Why a record of the integrations topic can't be used. Says nothing about the record's secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The record's key is not `<workspace>/<integration id>`.
    #[error("the key is not `<workspace>/<integration id>`")]
    Key,
    /// The value is not the JSON of an instance.
    #[error("not the JSON of an integration: {0}")]
    Json(String),
    /// The value's id is another than the key's.
    #[error("the value's id is not the key's")]
    IdMismatch,
    /// An unknown status word.
    #[error("status `{0}`: expected active, hasErrors, paused, notConfigured or failed")]
    Status(String),
    /// A webhook without an id.
    #[error("webhook number {0} has no id")]
    WebhookId(usize),
    /// Two webhooks share an id.
    #[error("two webhooks have the id `{0}`")]
    DuplicateWebhook(String),
    /// An unknown trigger type.
    #[error("webhook `{webhook}`: trigger type `{word}`: expected entityEvent or schedule")]
    Trigger { webhook: String, word: String },
    /// A URL that can't be called.
    #[error("webhook `{webhook}`: {error}")]
    Url { webhook: String, error: BadUrl },
    /// A period that is not valid.
    #[error("webhook `{webhook}`: {error}")]
    Period { webhook: String, error: BadPeriod },
    /// A base URL to which nothing can be appended.
    #[error("baseUrl: {0}")]
    BaseUrl(BadUrl),
    /// A filter item with an unknown field: without it the item would match more than its owner means.
    #[error(
        "webhook `{webhook}`: a filter item has the field `{field}`: expected eventType, entityType and changeType"
    )]
    FilterField { webhook: String, field: String },
    /// More of something than an integration may have.
    #[error("{what}: {found}; expected at most {most}")]
    TooMany { what: &'static str, found: usize, most: usize },
    /// More than the packed form can count.
    #[error("the record is too large to use")]
    TooLarge,
}
