//! The queries of the reader routes: their parameters, and the question that they mean. Nothing is looked up here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::outcome::{DeadReason, Reason};
use crate::domain::word::one_of;
use crate::registration::question::{Asked, BadQuestion};

/// Rows of an answer unless `limit` says otherwise.
const ROWS: usize = 50;
/// The most that `limit` may say.
pub(super) const ROWS_MAX: usize = 200;
/// A token for going on names a place in each partition: far below this for any topic.
pub(super) const NEXT_CHARS_MAX: usize = 64 * 1024;
/// Ids and search words.
pub(super) const WORD_CHARS_MAX: usize = 1024;

/// The parameters of one route besides times and paging.
pub(super) struct Takes {
    fields: &'static [&'static str],
    /// The reason words that its rows can have.
    reasons: fn() -> Vec<&'static str>,
}

pub(super) const HEALTH: Takes = Takes { fields: &["integration", "webhook", "reason"], reasons: attempt_reasons };
pub(super) const ATTEMPTS: Takes =
    Takes { fields: &["integration", "webhook", "reason", "event", "delivery", "entity"], reasons: attempt_reasons };
/// Its path names the integration.
pub(super) const ATTEMPTS_OF_ONE: Takes =
    Takes { fields: &["webhook", "reason", "event", "delivery", "entity"], reasons: attempt_reasons };
pub(super) const DEAD_LETTERS: Takes = Takes {
    fields: &["integration", "webhook", "reason", "event", "delivery"],
    reasons: || DeadReason::words().collect(),
};

fn attempt_reasons() -> Vec<&'static str> {
    Reason::words_of_attempts().collect()
}

/// The query of the routes whose rows are searched for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters {
    integration: Option<String>,
    webhook: Option<String>,
    reason: Option<String>,
    event: Option<String>,
    delivery: Option<String>,
    entity: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    next: Option<String>,
    /// What no such route takes.
    #[serde(flatten)]
    others: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Find {
    #[serde(rename = "find")]
    pub(super) word: Option<String>,
    pub(super) limit: Option<String>,
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    pub(super) filter: String,
}

pub(super) fn limit(given: Option<&str>) -> Result<usize, BadQuestion> {
    page_limit(given, ROWS, ROWS_MAX).ok_or(BadQuestion::Limit)
}

/// How many rows a `limit` asks for: `usual` without one, `max` at most. `None` if it is not a number from 1 on in plain digits.
pub(in crate::registration::http) fn page_limit(given: Option<&str>, usual: usize, max: usize) -> Option<usize> {
    let Some(given) = given else { return Some(usual) };
    // The library's parser takes a sign too.
    let limit: i64 = if given.starts_with('+') { None } else { given.parse().ok() }?;
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0)?;
    Some(limit.min(max))
}

pub(super) fn word(name: &'static str, given: Option<String>, chars_max: usize) -> Result<Option<String>, BadQuestion> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
    let is_text = given.chars().count() <= chars_max && !given.chars().any(char::is_control);
    if is_text { Ok(Some(given)) } else { Err(BadQuestion::Word { name, chars_max }) }
}

pub(super) fn instant(name: &'static str, given: Option<String>) -> Result<Option<Timestamp>, BadQuestion> {
    let Some(given) = given else { return Ok(None) };
    given.parse::<Timestamp>().map(Some).map_err(|_malformed| BadQuestion::Time { name })
}

impl Parameters {
    /// The question of a route that takes this query.
    ///
    /// # Errors
    /// [`BadQuestion`]
    pub(super) fn asked(self, takes: &Takes) -> Result<Asked, BadQuestion> {
        self.check_fields(takes)?;
        let reason = self.reason.filter(|given| !given.is_empty()).map(|given| one_of(&given, (takes.reasons)()));
        let asked = Asked {
            limit: limit(self.limit.as_deref())?,
            integration: word("integration", self.integration, WORD_CHARS_MAX)?,
            webhook: word("webhook", self.webhook, WORD_CHARS_MAX)?,
            reason: reason.transpose().map_err(|unknown| BadQuestion::UnknownWord { name: "reason", unknown })?,
            event: word("event", self.event, WORD_CHARS_MAX)?,
            delivery: word("delivery", self.delivery, WORD_CHARS_MAX)?,
            entity: word("entity", self.entity, WORD_CHARS_MAX)?,
            from: instant("from", self.from)?,
            to: instant("to", self.to)?,
            next: word("next", self.next, NEXT_CHARS_MAX)?,
        };
        if asked.from.zip(asked.to).is_some_and(|(from, to)| from >= to) {
            return Err(BadQuestion::Times);
        }
        Ok(asked)
    }

    /// A parameter that the route does not use is a mistake: its answer would be another than the caller asked for.
    fn check_fields(&self, takes: &Takes) -> Result<(), BadQuestion> {
        let given = [
            ("integration", &self.integration),
            ("webhook", &self.webhook),
            ("reason", &self.reason),
            ("event", &self.event),
            ("delivery", &self.delivery),
            ("entity", &self.entity),
        ];
        let foreign = given.into_iter().find(|(name, value)| value.is_some() && !takes.fields.contains(name));
        let foreign = foreign.map(|(name, _)| name).or_else(|| self.others.keys().next().map(String::as_str));
        foreign.map_or(Ok(()), |name| Err(BadQuestion::Field { name: name.to_owned(), taken: takes.fields }))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoOn {
    pub(super) next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}
