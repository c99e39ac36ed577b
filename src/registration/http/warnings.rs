//! The warnings in the answer to a change: effects that the caller may not have meant. `instance_check` refuses a change that
//! can't be made.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::Deserialize;

use crate::domain::integration::{SecretUse, join_url};
use crate::domain::target::Target;
use crate::net::address::AddressPolicy;
use crate::registration::instance::{Fields, Instance};
use crate::registration::secrets::values;

/// Warnings in one answer: each further one is the same about another host.
const WARNINGS_MAX: usize = 10;

/// A sentence where there is no webhook, for each header that has values which are not sent, for each entity type that is written as an
/// id is, and for each host that no request may go to by this policy, with the first place that names it. A name is not looked up: its
/// addresses may differ where the workers are.
pub(super) fn warnings(instance: &Instance, policy: &AddressPolicy) -> Vec<String> {
    let base = instance.fields.text("baseUrl").unwrap_or_default();
    let webhooks = instance.webhooks.iter().enumerate().filter_map(|(index, webhook)| {
        let url = join_url(&base, &webhook.text("relativeUrl")?);
        Some((format!("/webHooks/{index}/relativeUrl"), url))
    });
    let mut hosts = BTreeSet::new();
    let mut warnings = no_webhook(instance);
    warnings.extend(values_not_sent(instance));
    warnings.extend(types_that_fit_nothing(instance));
    warnings.truncate(WARNINGS_MAX);
    for (path, url) in [("/baseUrl".to_owned(), base.clone())].into_iter().chain(webhooks) {
        let Ok(target) = Target::parse(&url) else { continue };
        let authority = target.authority();
        let Some(why) = literal(&authority.host).and_then(|address| policy.refusal(address)) else { continue };
        if !hosts.insert(Arc::clone(&authority)) {
            continue;
        }
        if warnings.len() >= WARNINGS_MAX {
            break;
        }
        let host = &authority.host;
        warnings.push(format!(
            "{path}: {host} is refused ({why}): each attempt fails with refused-address, \
             unless --allow-private-networks of the workers names it"
        ));
    }
    warnings
}

fn no_webhook(instance: &Instance) -> Vec<String> {
    let warning = "/webHooks: the integration has no webhook: nothing is sent to it";
    if instance.webhooks.is_empty() { vec![warning.to_owned()] } else { Vec::new() }
}

/// A sentence for each secret that is a header and has several values: only a signing secret uses all of them.
fn values_not_sent(instance: &Instance) -> Vec<String> {
    let secrets = instance.fields.get("secrets").and_then(|raw| serde_json::from_str::<Vec<Fields>>(raw.get()).ok());
    let secrets = secrets.unwrap_or_default().into_iter().enumerate();
    let warnings = secrets.filter_map(|(index, secret)| {
        let id = secret.text("id")?;
        let is_header = matches!(SecretUse::of(&id), SecretUse::Header(_));
        let count = values(&secret).filter(|values| is_header && values.len() > 1)?.len();
        Some(format!("/secrets/{index}: of {count} values of a header only the first is sent"))
    });
    warnings.take(WARNINGS_MAX).collect()
}

/// What a filter says of entity types.
#[derive(Deserialize)]
struct Filter {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "entityType")]
    entity_type: Option<String>,
}

/// A sentence for each item whose entity type is the name of an event's id. New types may come at any time, so no name is
/// refused; but a type is such a name without its end.
fn types_that_fit_nothing(instance: &Instance) -> Vec<String> {
    let filters = instance
        .webhooks
        .iter()
        .enumerate()
        .filter_map(|(at, webhook)| Some((at, serde_json::from_str::<Filter>(webhook.get("filter")?.get()).ok()?)));
    let items = filters.flat_map(|(at, filter)| filter.items.into_iter().enumerate().map(move |item| (at, item)));
    let warnings = items.filter_map(|(at, (index, item))| {
        let named = item.entity_type?;
        let meant = named.strip_suffix("Id").filter(|meant| !meant.is_empty())?;
        let path = format!("/webHooks/{at}/filter/items/{index}/entityType");
        Some(format!("{path}: {named:?} is the name of an id, and a type is that without Id; did you mean {meant:?}?"))
    });
    warnings.take(WARNINGS_MAX).collect()
}

/// The address that a host is written as, without a lookup.
fn literal(host: &str) -> Option<IpAddr> {
    let is_this_machine = host == "localhost" || host.ends_with(".localhost");
    if is_this_machine { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(instance: &str, allowed: &[&str]) -> Vec<String> {
        let allowed = allowed.iter().map(|range| range.parse().unwrap()).collect();
        warnings(&Instance::parse(instance.as_bytes()).unwrap(), &AddressPolicy::new(allowed))
    }

    #[test]
    fn each_refused_host_gives_one_warning_and_allowed_ranges_give_none() {
        let instance = r#"{"baseUrl":"http://10.0.0.5:81/crm","webHooks":[
            {"id":"a","relativeUrl":"/a"},{"id":"b","relativeUrl":"https://[::1]/b"},{"id":"c","relativeUrl":"http://localhost/c"},
            {"id":"d","relativeUrl":"https://8.8.8.8/d"},{"id":"e","relativeUrl":"https://a.example/e"},{"id":"f"}]}"#;
        let places = |warnings: Vec<String>| -> Vec<String> {
            warnings.iter().map(|text| text.split(" is refused").next().unwrap().to_owned()).collect()
        };
        let all = ["/baseUrl: 10.0.0.5", "/webHooks/1/relativeUrl: ::1", "/webHooks/2/relativeUrl: localhost"];
        assert_eq!(places(of(instance, &[])), all);
        assert_eq!(places(of(instance, &["10.0.0.0/8"])), all[1..]);
        assert_eq!(places(of(instance, &["10.0.0.0/8", "127.0.0.0/8", "::1/128"])), [""; 0]);
        let text = of(instance, &[]).swap_remove(0);
        assert!(text.contains("(private)") && text.contains("--allow-private-networks"), "{text}");
    }

    #[test]
    fn an_entity_type_that_is_written_as_an_id_gives_a_warning() {
        let instance = r#"{"baseUrl":"https://a.example/","webHooks":[{"id":"a","relativeUrl":"/a"},{"id":"b","relativeUrl":"/b",
            "filter":{"items":[{},{"entityType":"company"},{"entityType":"companyId"},{"entityType":"Id"}]}}]}"#;
        let said = "/webHooks/1/filter/items/2/entityType: \"companyId\" is the name of an id, and a type is that without Id; \
                    did you mean \"company\"?";
        assert_eq!(of(instance, &[]), [said]);
    }

    #[test]
    fn an_integration_without_webhooks_gives_a_warning() {
        for none in ["{}", r#"{"webHooks":[]}"#] {
            assert_eq!(of(none, &[]), ["/webHooks: the integration has no webhook: nothing is sent to it"]);
        }
    }

    #[test]
    fn a_header_with_several_values_gives_a_warning_and_a_signing_secret_does_not() {
        let instance = r#"{"webHooks":[{"id":"a","relativeUrl":"https://a.example/"}],"secrets":[
            {"id":"webhook.signingSecret","values":["a","b"]},{"id":"webhook.header.X-One","values":["a"]},
            {"id":"webhook.header.X-Two","value":"hunter","values":["22"]},{"id":"mine","values":["a","b"]}]}"#;
        assert_eq!(of(instance, &[]), ["/secrets/2: of 2 values of a header only the first is sent"]);
    }

    #[test]
    fn warnings_have_a_bound() {
        let webhooks: Vec<_> =
            (0..50).map(|n| format!(r#"{{"id":"w{n}","relativeUrl":"http://10.0.0.{n}/"}}"#)).collect();
        let instance = format!(r#"{{"webHooks":[{}]}}"#, webhooks.join(","));
        assert_eq!(of(&instance, &[]).len(), WARNINGS_MAX);
    }
}
