//! Completes the id of an integration if only its beginning was given, and reports a name that is not registered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::render::printable;
use super::{ToolError, blocking, write_line};
use crate::domain::integration::Integration;
use crate::kafka::span::SpanError;
use crate::readers::{ReadError, may_begin_guid, read_table, same_id};
use crate::settings::{IntegrationName, NamedEvent, Settings};

/// Ids that an error names if several begin with the given text.
const NAMED_MAX: usize = 5;
/// `msg_` and 32 hexadecimal digits.
const DELIVERY_ID_CHARS: usize = 36;

/// The whole id of the only integration whose id begins with `given`, if that can be the beginning of a GUID; otherwise `given`. An id
/// that exists stays as it is.
pub(super) async fn whole_id(
    settings: &Settings,
    workspace: Option<&str>,
    given: Option<&str>,
) -> Result<Option<String>, ToolError> {
    let Some(given) = given else { return Ok(None) };
    if !may_begin_guid(given) {
        return Ok(Some(given.to_owned()));
    }
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.integrations.clone());
    let (workspace, prefix) = (workspace.map(str::to_owned), given.to_ascii_lowercase());
    let found = blocking("reading the integrations topic", move || {
        let mut found = BTreeSet::new();
        let read = read_table(&kafka, &topic, "id-lookup", &|| true, |row| {
            let key = std::str::from_utf8(row.key).ok().and_then(|key| key.split_once('/'));
            let Some((of, id)) = key else { return };
            let is_meant = workspace.as_deref().is_none_or(|wanted| wanted == of)
                && (id.to_ascii_lowercase().starts_with(&prefix));
            if is_meant && row.value.is_some() {
                found.insert(id.to_owned());
            } else if is_meant {
                found.remove(id);
            }
        });
        match read {
            Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_))) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(found)
    })
    .await?;
    if found.contains(given) || found.is_empty() {
        return Ok(Some(given.to_owned()));
    }
    if found.len() > 1 {
        return Err(ToolError::Ambiguous { given: given.to_owned(), count: found.len(), named: named(&found) });
    }
    Ok(found.into_iter().next())
}

/// Names of which nothing was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) workspace: Option<String>,
    pub(super) integration: Option<String>,
    pub(super) webhook: Option<String>,
}

/// Which of the names is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registered {
    integration: bool,
    webhook: bool,
}

impl Names {
    /// What is wrong with the names. `None` if they are registered, or if they cannot be looked up.
    fn unregistered(&self, registered: Registered) -> Option<String> {
        let Self { workspace, integration, webhook } = self;
        let (workspace, integration) = (workspace.as_deref(), integration.as_deref());
        match (integration, webhook) {
            _ if (workspace.is_some() || integration.is_some()) && !registered.integration => {
                Some(no_integration(workspace, integration))
            }
            (_, Some(webhook)) if !registered.webhook => Some(format!(
                "No webhook{}{} is registered{}; `hookstream integrations --json` lists each webhook",
                quoted("", Some(webhook)),
                quoted(" of integration", integration),
                quoted(" in workspace", workspace)
            )),
            _ => None,
        }
    }
}

/// Says that the integration, or any in the workspace, is not registered.
pub(super) fn no_integration(workspace: Option<&str>, integration: Option<&str>) -> String {
    format!(
        "No integration{} is registered{}; `hookstream integrations` lists each with its workspace",
        quoted("", integration),
        quoted(" in workspace", workspace)
    )
}

/// The name behind `before`. Nothing without a name.
fn quoted(before: &str, name: Option<&str>) -> String {
    name.map(|name| format!("{before} `{}`", printable(name))).unwrap_or_default()
}

/// Looks the names up in the integrations topic. Blocks for a bounded time.
fn look_up(settings: &Settings, names: &Names) -> Result<Registered, ToolError> {
    // By key, whether the integration has the webhook.
    let mut found: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let read = read_table(&settings.kafka, &settings.topics.integrations, "name-lookup", &|| true, |row| {
        let Ok(key) = std::str::from_utf8(row.key) else { return };
        let Some((workspace, integration)) = key.split_once('/') else { return };
        let is_meant = names.workspace.as_deref().is_none_or(|of| of == workspace)
            && names.integration.as_deref().is_none_or(|id| same_id(id, integration));
        match row.value.filter(|_| is_meant) {
            Some(value) => {
                let has = |id: &String| {
                    // Of a record that can't be used, the one before it stays in force.
                    let before = found.get(row.key).copied();
                    Integration::parse(key, value).map_or(before.unwrap_or(true), |it| it.webhook_by_id(id).is_some())
                };
                let has = names.webhook.as_ref().is_none_or(has);
                found.insert(row.key.to_vec(), has);
            }
            None => drop(found.remove(row.key)),
        }
    });
    match read {
        Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_))) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Registered { integration: !found.is_empty(), webhook: found.values().any(|has| *has) })
}

/// Says that a name of which nothing was found is not registered: on `out`, or with `json` in the log.
pub(super) async fn say_unregistered(
    settings: &Settings,
    names: &Names,
    json: bool,
    out: &mut impl io::Write,
) -> Result<(), ToolError> {
    match unregistered(settings, names).await? {
        Some(hint) if json => tracing::warn!(hint, "nothing of that name is registered"),
        Some(words) => {
            write_line(out, &words)?;
        }
        None => {}
    }
    Ok(())
}

/// What is wrong with the names. `None` if each that is given is registered.
pub(super) async fn unregistered(settings: &Settings, names: &Names) -> Result<Option<String>, ToolError> {
    if *names == Names::default() {
        return Ok(None);
    }
    let (settings, asked) = (settings.clone(), names.clone());
    let registered = blocking("reading the integrations topic", move || look_up(&settings, &asked)).await?;
    Ok(names.unregistered(registered))
}

/// The first few of `ids`.
pub(super) fn named(ids: &BTreeSet<String>) -> String {
    let named: Vec<&str> = ids.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// A hint for an id that is too short: the beginning of an event's id is enough, that of a delivery's id or of a place is not.
pub(super) fn id_hint(event: Option<&NamedEvent>, delivery: Option<&str>) -> Option<&'static str> {
    let is_cut = |id: &str| id.chars().count() < DELIVERY_ID_CHARS;
    let whole_id = "(The id of a delivery is needed whole: msg_ and 32 hexadecimal digits; lists show it with --wide.)";
    match event {
        _ if delivery.is_some_and(is_cut) => Some(whole_id),
        Some(NamedEvent::Delivery(id)) if is_cut(id) => Some(whole_id),
        Some(NamedEvent::Id(id)) if id.contains('/') => {
            Some("(The place of an event is topic/partition/offset, such as crm.object-events/3/1042.)")
        }
        _ => None,
    }
}

/// The name with the whole id.
pub(super) async fn whole_name(settings: &Settings, name: &IntegrationName) -> Result<IntegrationName, ToolError> {
    let IntegrationName { workspace, integration } = name;
    let whole = whole_id(settings, Some(workspace), Some(integration)).await?;
    Ok(IntegrationName { workspace: workspace.clone(), integration: whole.unwrap_or_else(|| integration.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_id_gets_a_hint() {
        let hint = |event| id_hint(Some(&event), None);
        let id = |text: &str| text.to_owned();
        assert!(hint(NamedEvent::Delivery(id("msg_65d776ee"))).unwrap().contains("32"));
        assert_eq!(hint(NamedEvent::Delivery(id("msg_65d776ee344e099142ffee203f4f99d6"))), None);
        assert!(hint(NamedEvent::Id(id("crm.object-events/3"))).unwrap().contains("topic/partition/offset"));
        assert_eq!(hint(NamedEvent::Id(id("3c75d291"))), None);
        assert!(id_hint(None, Some("msg_65")).is_some());
    }

    #[test]
    fn a_name_that_is_not_registered_is_named_and_no_other() {
        let names = |workspace: &str, integration: &str, webhook: &str| {
            let given = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
            Names { workspace: given(workspace), integration: given(integration), webhook: given(webhook) }
        };
        let nothing = Registered::default();
        let no_webhook = Registered { integration: true, webhook: false };
        for (names, registered, begin) in [
            (names("ws", "i", "w"), nothing, "No integration `i` is registered in workspace `ws`;"),
            (names("ws", "", "w"), nothing, "No integration is registered in workspace `ws`;"),
            (names("", "", "w"), no_webhook, "No webhook `w` is registered;"),
            (names("", "", "w"), nothing, "No webhook `w` is registered;"),
            (names("ws", "", "w"), no_webhook, "No webhook `w` is registered in workspace `ws`;"),
            (names("ws", "i", "w"), no_webhook, "No webhook `w` of integration `i` is registered in workspace `ws`;"),
        ] {
            let words = names.unregistered(registered).unwrap();
            assert!(words.starts_with(begin), "{words}");
        }
        let all = Registered { integration: true, webhook: true };
        assert_eq!(names("ws", "i", "w").unregistered(all), None);
        assert_eq!(names("ws", "i", "").unregistered(no_webhook), None);
        assert_eq!(Names::default().unregistered(nothing), None);
    }
}
