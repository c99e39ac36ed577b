//! What an action is about: one type for the command line, the API and the page. What a preview counted stands in it as ranges of
//! offsets, so that a run reads the same records and no other. No Kafka here.

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::refusal::{BadSelection, WORD_CHARS_MAX};
use super::{ActionError, Sender};
use crate::domain::outcome::DeadReason;
use crate::domain::word::one_of;
use crate::kafka::span::Range;

/// Partitions of a topic: far above any cluster's.
const RANGES_MAX: usize = 10_000;

/// The records or the integration that an action is about: those that match every field that is set. It never holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Selection {
    /// In a request it comes from the path. At the command line `None` means all workspaces.
    #[serde(skip)]
    pub(crate) workspace: Option<String>,
    /// The integration's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub(crate) integration: Option<String>,
    /// The webhook's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub(crate) webhook: Option<String>,
    /// The reason of a dead letter; only of a redrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$", example = "exhausted")]
    pub(crate) reason: Option<String>,
    /// A place `topic/partition/offset`; of a dead letter also the id of its event or its delivery. A replay of one event takes no
    /// times.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub(crate) event: Option<String>,
    /// Records of this time and later.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) from: Option<Timestamp>,
    /// Records before this time.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) to: Option<Timestamp>,
    /// Leaves out dead letters that were sent back after they were written; only of a redrive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) skip_sent: bool,
    /// What a preview fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fixed: Option<Fixed>,
}

/// Says what is expected in our words: the library's do not name RFC 3339.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let expected = "from, to: expected a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z";
    text.map(|text| text.parse().map_err(|_error| D::Error::custom(expected))).transpose()
}

/// What a preview fixed, as it gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fixed {
    /// `partition/start/end`: the first offset, and the one behind the last.
    #[schema(value_type = Vec<String>, max_items = 10_000, pattern = r"^[0-9]{1,9}/[0-9]{1,18}/[0-9]{1,18}$")]
    pub(crate) ranges: Vec<Part>,
    /// Of a replay, the place of the integration's record that events were matched with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) record: Option<String>,
}

/// Offsets of one partition, written `partition/start/end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Part(Range);

impl From<Part> for String {
    fn from(Part(range): Part) -> Self {
        format!("{}/{}/{}", range.partition, range.start, range.end)
    }
}

impl TryFrom<String> for Part {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = text.split('/').filter(|part| is_number(part)).collect();
        let range = match *parts {
            [partition, start, end] if text.matches('/').count() == 2 => {
                let partition = partition.parse().ok();
                partition.zip(start.parse().ok().zip(end.parse().ok()))
            }
            _ => None,
        };
        let (partition, (start, end)) = range.ok_or("expected partition/start/end")?;
        Ok(Self(Range { partition, start, end }))
    }
}

impl Fixed {
    /// Of these ranges.
    pub(crate) fn of(ranges: &[Range]) -> Self {
        Self { ranges: ranges.iter().copied().map(Part).collect(), record: None }
    }
}

impl Selection {
    /// Checks what came from outside for an action, and leaves out what is empty.
    ///
    /// # Errors
    /// [`ActionError::Bad`]: which field is not valid or has no effect, and what is expected.
    pub(crate) fn checked(mut self, sender: Sender) -> Result<Self, ActionError> {
        let fields = [
            ("integration", &mut self.integration),
            ("webhook", &mut self.webhook),
            ("reason", &mut self.reason),
            ("event", &mut self.event),
        ];
        for (name, field) in fields {
            if field.as_ref().is_some_and(String::is_empty) {
                *field = None;
            }
            if field
                .as_ref()
                .is_some_and(|text| text.chars().count() > WORD_CHARS_MAX || text.chars().any(char::is_control))
            {
                return Err(BadSelection::Word { field: name }.into());
            }
        }
        let is_bounded = |fixed: &Fixed| {
            fixed.ranges.len() <= RANGES_MAX
                && fixed.record.as_ref().is_none_or(|text| text.chars().count() <= WORD_CHARS_MAX)
        };
        if self.fixed.as_ref().is_some_and(|fixed| !is_bounded(fixed)) {
            return Err(BadSelection::Fixed.into());
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            return Err(BadSelection::Times.into());
        }
        if let Some(reason) = &self.reason {
            one_of(reason, DeadReason::words()).map_err(BadSelection::Reason)?;
        }
        self.check_effects(sender)?;
        Ok(self)
    }

    /// A field without an effect is a mistake: something else would be sent than the caller asked for.
    fn check_effects(&self, sender: Sender) -> Result<(), BadSelection> {
        let accepted = self.accepted(sender);
        if let Some(field) = self.given().into_iter().find(|field| !accepted.contains(field)) {
            return Err(BadSelection::NoEffect { field, action: sender.word(), accepted });
        }
        let is_placed = self.fixed.as_ref().is_some_and(|fixed| fixed.record.is_some());
        if is_placed && sender == Sender::Redrive { Err(BadSelection::Fixed) } else { Ok(()) }
    }

    /// The fields that narrow an action down, given the others.
    fn accepted(&self, sender: Sender) -> &'static [&'static str] {
        match sender {
            Sender::Redrive => &["integration", "webhook", "reason", "event", "from", "to", "skipSent", "fixed"],
            Sender::Replay if self.event.is_some() => &["integration", "webhook", "event", "fixed"],
            Sender::Replay => &["integration", "webhook", "event", "from", "to", "fixed"],
        }
    }

    /// The names of the fields that are set.
    fn given(&self) -> Vec<&'static str> {
        // No `..`: a new field is decided on here.
        let Self { workspace: _, integration, webhook, reason, event, from, to, skip_sent, fixed } = self;
        let fields = [
            ("integration", integration.is_some()),
            ("webhook", webhook.is_some()),
            ("reason", reason.is_some()),
            ("event", event.is_some()),
            ("from", from.is_some()),
            ("to", to.is_some()),
            ("skipSent", *skip_sent),
            ("fixed", fixed.is_some()),
        ];
        fields.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }

    /// The ranges to read: those that are fixed, as far as the topic still has them, else those that `found` finds.
    pub(crate) fn ranges<E>(
        &self,
        bounds: &[Range],
        found: impl FnOnce() -> Result<Vec<Range>, E>,
    ) -> Result<Vec<Range>, E> {
        let Some(fixed) = &self.fixed else { return found() };
        let of = |bounds: &Range| {
            let Part(wanted) = fixed.ranges.iter().find(|part| part.0.partition == bounds.partition)?;
            let start = wanted.start.clamp(bounds.start, bounds.end);
            Some(Range { partition: bounds.partition, start, end: wanted.end.clamp(start, bounds.end) })
        };
        Ok(bounds.iter().filter_map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `None` where a redrive refuses it.
    fn read(value: serde_json::Value) -> Option<Selection> {
        serde_json::from_value::<Selection>(value).ok()?.checked(Sender::Redrive).ok()
    }

    #[test]
    fn a_selection_is_read_back_as_it_was_written() {
        let written = json!({"integration": "i", "reason": "suspended", "from": "2026-01-31T12:00:00Z", "skipSent": true,
            "fixed": {"ranges": ["0/3/9", "11/0/0"]}});
        let selection = read(written.clone()).unwrap();
        assert_eq!(selection.fixed.as_ref().unwrap().ranges[0].0, Range { partition: 0, start: 3, end: 9 });
        assert_eq!(serde_json::to_value(&selection).unwrap(), written);
        assert_eq!(serde_json::to_value(read(json!({"webhook": ""})).unwrap()).unwrap(), json!({}));
    }

    #[test]
    fn a_time_that_is_not_read_is_answered_with_what_is_expected() {
        for name in ["from", "to"] {
            let text = serde_json::from_value::<Selection>(json!({ name: "1h" })).unwrap_err().to_string();
            assert!(text.starts_with("from, to: expected a time as RFC 3339 writes it"), "{text}");
            assert_eq!(read(json!({ name: null })), Some(Selection::default()));
        }
    }

    #[test]
    fn a_request_with_a_workspace_or_a_field_that_is_not_valid_is_refused() {
        for refused in [
            json!({"workspace": "other"}),
            json!({"webhok": "w"}),
            json!({"event": "a\nb"}),
            json!({"reason": "exausted"}),
            json!({"event": "x".repeat(1025)}),
            json!({"from": "yesterday"}),
            json!({"from": "2026-01-31T12:00:00Z", "to": "2026-01-31T12:00:00Z"}),
            json!({"fixed": {"ranges": ["0/3"]}}),
            json!({"fixed": {"ranges": ["0/3/4/"]}}),
            json!({"fixed": {"ranges": ["-1/0/3"]}}),
            json!({"fixed": {}}),
            json!({"fixed": {"ranges": [], "record": "t/1/2"}}),
        ] {
            assert_eq!(read(refused.clone()), None, "{refused}");
        }
    }

    #[test]
    fn a_field_without_an_effect_on_the_action_is_refused_with_those_that_have_one() {
        let refusal = |sender: Sender, value: &serde_json::Value| {
            let selection: Selection = serde_json::from_value(value.clone()).unwrap();
            selection.checked(sender).err().map(|error| error.of_question("").unwrap())
        };
        let every = json!({"integration": "i", "webhook": "w", "reason": "exhausted", "event": "t/1/2",
            "from": "2026-01-31T12:00:00Z", "to": "2026-02-01T12:00:00Z", "skipSent": true, "fixed": {"ranges": []}});
        let whole: Selection = serde_json::from_value(every.clone()).unwrap();
        assert_eq!(serde_json::to_value(&whole).unwrap(), every, "every field is set");
        let names: Vec<&str> = every.as_object().unwrap().keys().map(String::as_str).collect();
        let listed = serde_json::to_value(whole.given()).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), names.len());
        for (sender, without_effect) in [(Sender::Redrive, &[][..]), (Sender::Replay, &["reason", "skipSent"])] {
            for &name in &names {
                let refused = refusal(sender, &json!({ name: every[name] }));
                assert_eq!(refused.is_some(), without_effect.contains(&name), "{name}: {refused:?}");
            }
        }
        let at_event = refusal(Sender::Replay, &json!({"event": "t/1/2", "from": every["from"]}));
        let expected = "from: has no effect on this replay; accepted: integration, webhook, event, fixed";
        assert_eq!(at_event.as_deref(), Some(expected));
        assert!(refusal(Sender::Replay, &json!({"reason": "", "skipSent": false, "from": null})).is_none());
        assert!(refusal(Sender::Replay, &json!({"fixed": {"ranges": [], "record": "t/1/2"}})).is_none());
    }

    #[test]
    fn fixed_ranges_are_read_as_far_as_the_topic_has_them_and_no_other_partition_is() {
        let part = |partition, start, end| Range { partition, start, end };
        let fixed = Fixed::of(&[part(0, 3, 9), part(1, 0, 4), part(3, 9, 3), part(7, 0, 1)]);
        let selection = Selection { fixed: Some(fixed), ..Selection::default() };
        let bounds = [
            Range { partition: 0, start: 0, end: 20 },
            Range { partition: 1, start: 2, end: 3 },
            Range { partition: 2, start: 0, end: 5 },
            Range { partition: 3, start: 0, end: 20 },
        ];
        let ranges = selection.ranges(&bounds, || Err("not asked")).unwrap();
        let expected = [part(0, 3, 9), part(1, 2, 3), part(3, 9, 9)];
        assert_eq!(ranges, expected);
        assert_eq!(Selection::default().ranges(&bounds, || Ok::<_, ()>(Vec::new())), Ok(Vec::new()));
    }
}
