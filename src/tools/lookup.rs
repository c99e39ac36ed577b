//! Completes the id of an integration if only its beginning was given, and reports a name that is not registered.

use std::collections::BTreeSet;
use std::io;

use super::render::printable;
use super::{ToolError, blocking, write_line};
use crate::kafka::topic_range::SpanError;
use crate::readers::{ReadError, may_begin_guid, read_table, same_id};
use crate::settings::{IntegrationName, Settings};

/// Ids that an error names if several begin with the given text.
const NAMED_MAX: usize = 5;

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

/// That the name of which nothing was found is not registered at all. `None` when it is, or when it cannot be looked up.
pub(super) async fn unregistered(
    settings: &Settings,
    workspace: Option<&str>,
    integration: Option<&str>,
) -> Result<Option<String>, ToolError> {
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.integrations.clone());
    let (of, id) = (workspace.map(str::to_owned), integration.map(str::to_owned));
    let is_registered = blocking("reading the integrations topic", move || {
        let mut found = BTreeSet::new();
        let read = read_table(&kafka, &topic, "name-lookup", &|| true, |row| {
            let Some((workspace, integration)) = std::str::from_utf8(row.key).ok().and_then(|key| key.split_once('/'))
            else {
                return;
            };
            let is_meant = of.as_deref().is_none_or(|of| of == workspace)
                && id.as_deref().is_none_or(|id| same_id(id, integration));
            if is_meant && row.value.is_some() {
                found.insert(row.key.to_vec());
            } else if is_meant {
                found.remove(row.key);
            }
        });
        match read {
            Ok(()) => Ok(!found.is_empty()),
            Err(ReadError::Topic(SpanError::NoTopic(_))) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    Ok(unregistered_in_words(workspace, integration).filter(|_words| !is_registered))
}

/// `None` where no name was given.
fn unregistered_in_words(workspace: Option<&str>, integration: Option<&str>) -> Option<String> {
    let what = match (workspace, integration) {
        (Some(workspace), Some(integration)) => {
            format!("No integration `{}` is registered in workspace `{}`", printable(integration), printable(workspace))
        }
        (None, Some(integration)) => format!("No integration `{}` is registered", printable(integration)),
        (Some(workspace), None) => format!("No integration is registered in workspace `{}`", printable(workspace)),
        (None, None) => return None,
    };
    Some(format!("{what}; `hookstream integrations` lists each with its workspace"))
}

/// Says that the name of which nothing was found is not registered: on `out`, or with `json` in the log.
pub(super) async fn say_unregistered(
    settings: &Settings,
    workspace: Option<&str>,
    integration: Option<&str>,
    json: bool,
    out: &mut impl io::Write,
) -> Result<(), ToolError> {
    if workspace.or(integration).is_none() {
        return Ok(());
    }
    match unregistered(settings, workspace, integration).await? {
        Some(_) if json => tracing::warn!(workspace, integration, "no such integration is registered"),
        Some(words) => {
            write_line(out, &words)?;
        }
        None => {}
    }
    Ok(())
}

/// The first few of `ids`.
pub(super) fn named(ids: &BTreeSet<String>) -> String {
    let named: Vec<&str> = ids.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// The name with the whole id.
pub(super) async fn whole_name(settings: &Settings, name: &IntegrationName) -> Result<IntegrationName, ToolError> {
    let IntegrationName { workspace, integration } = name;
    let whole = whole_id(settings, Some(workspace), Some(integration)).await?;
    Ok(IntegrationName { workspace: workspace.clone(), integration: whole.unwrap_or_else(|| integration.clone()) })
}
