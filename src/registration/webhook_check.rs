//! Checks a webhook of an instance: its URL, trigger, filter and schedule, and finds the place of each fault. `instance_check`
//! checks the instance around it.

use serde_json::value::RawValue;

use super::faults::{Checker, FaultKind, ID_CHARS_MAX, Place, is_name, is_one_of, meant, pointer, present, words};
use super::fields::Fields;
use crate::domain::filter::{CHANGE_WORDS, EVENT_WORDS};
use crate::domain::integration::{ITEM_FIELDS, ITEMS_MAX, join_url, parse_period};
use crate::domain::target::Target;

/// The fields of a webhook.
const WEBHOOK_FIELDS: [&str; 6] = ["id", "relativeUrl", "triggerType", "filter", "schedule", "disabled"];

/// The trigger types, as records spell them.
const TRIGGER_WORDS: [&str; 2] = ["entityEvent", "schedule"];

/// The base of relative URLs.
pub(super) enum Base {
    Missing,
    Bad,
    Good(String),
}

/// The checks of one webhook.
pub(super) struct WebhookCheck<'a, 'b> {
    pub(super) checker: &'a mut Checker<'b>,
    pub(super) index: usize,
    pub(super) webhook: &'a Fields,
}

/// The fields at fault, of which the first gives the path, and the rest of the path below it.
#[derive(Clone, Copy)]
struct Below<'a> {
    fields: &'static [&'static str],
    below: &'a str,
}

fn part<'a>(fields: &'static [&'static str], below: &'a str) -> Below<'a> {
    Below { fields, below }
}

impl WebhookCheck<'_, '_> {
    /// Checks all of it. `base` is the base of a relative URL.
    pub(super) fn all(mut self, base: &Base) {
        let path = format!("/webHooks/{}", self.index);
        self.checker.names(self.webhook, &WEBHOOK_FIELDS, Place::Webhook(self.index, &[]).at(&path));
        self.id();
        self.url(base);
        let trigger = self.trigger();
        self.filter(trigger);
        self.schedule(trigger);
        if let Some(value) = present(self.webhook, "disabled")
            && !matches!(value.get(), "true" | "false")
        {
            self.fault(FaultKind::ValueType, &["disabled"], Some(value), "expected true or false");
        }
    }

    fn fault(&mut self, kind: FaultKind, fields: &'static [&'static str], value: Option<&RawValue>, what: &str) {
        self.fault_at(kind, part(fields, ""), value, what);
    }

    fn fault_at(&mut self, kind: FaultKind, at: Below<'_>, value: Option<&RawValue>, what: &str) {
        let Below { fields, below } = at;
        let field = fields.first().copied().unwrap_or_default();
        let path = format!("/webHooks/{}/{field}{below}", self.index);
        self.checker.fault(kind, Place::Webhook(self.index, fields).at(&path), value, what);
    }

    /// Adds a fault of the filter that no single value shows.
    fn remark(&mut self, below: &str, what: &str) {
        let path = format!("/webHooks/{}/filter{below}", self.index);
        self.checker.remark(FaultKind::Data, Place::Webhook(self.index, &["filter"]).at(&path), what);
    }

    fn id(&mut self) {
        let value = self.webhook.get("id");
        match self.webhook.text("id") {
            None => self.fault(FaultKind::ValueType, &["id"], value, "expected a string"),
            Some(id) if !is_name(&id) => {
                let what = format!("expected 1 to {ID_CHARS_MAX} characters without spaces and slashes");
                self.fault(FaultKind::Data, &["id"], value, &what);
            }
            Some(_) => {}
        }
    }

    fn url(&mut self, base: &Base) {
        let value = self.webhook.get("relativeUrl");
        let Some(relative) = self.webhook.text("relativeUrl") else {
            let expected = "expected a string, an http or https URL or one that continues baseUrl";
            self.fault(FaultKind::ValueType, &["relativeUrl"], value, expected);
            return;
        };
        let (base, is_missing) = match base {
            Base::Good(base) => (base.as_str(), false),
            Base::Missing => ("", true),
            // The fault is reported at its own place; only a URL without a base can be checked.
            Base::Bad if join_url("x", &relative) != relative => return,
            Base::Bad => ("", false),
        };
        if let Err(error) = Target::parse(&join_url(base, &relative)) {
            let hint = if is_missing { "; the instance has no baseUrl that it could continue" } else { "" };
            self.fault(FaultKind::Data, &["relativeUrl"], value, &format!("{error}{hint}"));
        }
    }

    fn trigger(&mut self) -> Option<&'static str> {
        let value = self.webhook.get("triggerType");
        let accepted = format!("expected one of {}", words(&TRIGGER_WORDS));
        let Some(word) = self.webhook.text("triggerType") else {
            self.fault(FaultKind::ValueType, &["triggerType"], value, &accepted);
            return None;
        };
        let known = TRIGGER_WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(&word));
        if known.is_none() {
            self.fault(FaultKind::Data, &["triggerType"], value, &accepted);
        }
        known
    }

    fn filter(&mut self, trigger: Option<&str>) {
        let on_events = trigger == Some("entityEvent");
        let expected = "expected an object with an array of items; {} as an item matches every event";
        let filter = match present(self.webhook, "filter").map(|raw| serde_json::from_str::<Fields>(raw.get())) {
            Some(Ok(filter)) => filter,
            Some(Err(_)) => {
                let value = self.webhook.get("filter");
                return self.fault(FaultKind::ValueType, &["filter"], value, expected);
            }
            None => Fields::default(),
        };
        let items: Vec<Box<RawValue>> = match present(&filter, "items").map(|raw| serde_json::from_str(raw.get())) {
            Some(Ok(items)) => items,
            Some(Err(_)) => {
                let value = filter.get("items");
                return self.fault_at(FaultKind::ValueType, part(&["filter"], "/items"), value, expected);
            }
            None => Vec::new(),
        };
        if items.is_empty() && on_events {
            let what = "a webhook without filter items would match no event; expected at least one item";
            let fields: &[&str] = &["filter", "triggerType"];
            self.fault_at(FaultKind::Data, part(fields, "/items"), filter.get("items"), what);
        }
        let path = format!("/webHooks/{}/filter", self.index);
        self.checker.names(&filter, &["items"], Place::Webhook(self.index, &["filter"]).at(&path));
        if items.len() > ITEMS_MAX {
            let what = format!("{} filter items; expected at most {ITEMS_MAX}", items.len());
            self.remark("/items", &what);
        }
        for (place, item) in items.iter().take(ITEMS_MAX).enumerate() {
            self.filter_item(place, item);
        }
    }

    fn filter_item(&mut self, place: usize, item: &RawValue) {
        let below = format!("/items/{place}");
        let Ok(fields) = serde_json::from_str::<Fields>(item.get()) else {
            let what = "expected an object with eventType, entityType, changeType or none of them";
            return self.fault_at(FaultKind::ValueType, part(&["filter"], &below), Some(item), what);
        };
        let accepted: [(&str, &[&str]); 3] =
            [("eventType", &EVENT_WORDS), ("changeType", &CHANGE_WORDS), ("entityType", &[])];
        for (name, known) in accepted {
            let Some(value) = present(&fields, name) else { continue };
            let below = format!("{below}/{name}");
            let expected = match known {
                [] => "expected the name of an entity type".to_owned(),
                known => format!("expected one of {}, or nothing for any", words(known)),
            };
            match fields.text(name) {
                None => self.fault_at(FaultKind::ValueType, part(&["filter"], &below), Some(value), &expected),
                Some(word) if !is_one_of(&word, known) => {
                    self.fault_at(FaultKind::Data, part(&["filter"], &below), Some(value), &expected);
                }
                Some(_) => {}
            }
        }
        self.item_fields(&below, &fields);
    }

    /// Checks for fields that no item has, and for words that no event has together.
    fn item_fields(&mut self, below: &str, fields: &Fields) {
        if let Some(name) = fields.repeated() {
            let below = format!("{below}/{}", pointer(name));
            self.remark(&below, "given twice; expected once");
        }
        for (name, value) in fields.iter().filter(|(name, _)| !ITEM_FIELDS.contains(name)) {
            let meant = meant(name, &ITEM_FIELDS).map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
            let what = format!("a filter item has no such field, expected {}{meant}", words(&ITEM_FIELDS));
            let below = format!("{below}/{}", pointer(name));
            self.fault_at(FaultKind::Data, part(&["filter"], &below), Some(value), &what);
        }
        let is_link = fields
            .text("eventType")
            .is_some_and(|word| is_one_of(&word, &EVENT_WORDS) && !word.eq_ignore_ascii_case("change"));
        if let Some(value) = present(fields, "changeType").filter(|_| is_link) {
            let what =
                "an event of this eventType has no changeType, so the item matches nothing; leave one of them out";
            self.fault_at(FaultKind::Data, part(&["filter"], &format!("{below}/changeType")), Some(value), what);
        }
    }

    fn schedule(&mut self, trigger: Option<&str>) {
        let expected = "expected an object, with a period [d.]hh:mm:ss of at least 00:00:10 for triggerType schedule";
        let fields: &[&str] = &["schedule", "triggerType"];
        let schedule = match present(self.webhook, "schedule").map(|raw| serde_json::from_str::<Fields>(raw.get())) {
            Some(Ok(schedule)) => schedule,
            Some(Err(_)) => {
                let value = self.webhook.get("schedule");
                return self.fault(FaultKind::ValueType, fields, value, expected);
            }
            None => Fields::default(),
        };
        let path = format!("/webHooks/{}/schedule", self.index);
        self.checker.names(&schedule, &["period"], Place::Webhook(self.index, fields).at(&path));
        let value = present(&schedule, "period");
        match (value, schedule.text("period")) {
            (Some(_), None) => self.fault_at(FaultKind::ValueType, part(fields, "/period"), value, expected),
            (Some(_), Some(period)) => {
                if let Err(error) = parse_period(&period) {
                    self.fault_at(FaultKind::Data, part(fields, "/period"), value, &error.expected());
                }
            }
            (None, _) if trigger == Some("schedule") => {
                self.fault_at(FaultKind::Data, part(fields, "/period"), None, expected);
            }
            (None, _) => {}
        }
    }
}
