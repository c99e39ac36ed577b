//! What a record of an integration may hold: the contract's bounds and names, for the worker that reads it and the API that writes
//! it. What a webhook or a filter means is not here.

/// Webhooks of an integration.
pub(crate) const WEBHOOKS_MAX: usize = 1_000;
/// Filter items of a webhook.
pub(crate) const ITEMS_MAX: usize = 1_000;
/// Secrets of an integration, counted by value.
pub(crate) const SECRETS_MAX: usize = 100;
/// Secrets of an integration that are sent as headers.
pub(crate) const HEADER_SECRETS_MAX: usize = 32;
/// Bytes of the names and values of those headers together.
pub(crate) const HEADER_BYTES_MAX: usize = 8 * 1024;

/// The fields of a filter item.
pub(crate) const ITEM_FIELDS: [&str; 3] = ["eventType", "entityType", "changeType"];

/// The secret with the signing key; several values during a rotation.
pub(crate) const SIGNING_SECRET: &str = "webhook.signingSecret";
/// Prefix of the secrets that are sent as headers.
pub(crate) const HEADER_SECRET_PREFIX: &str = "webhook.header.";
/// Prefix of the secrets that have a meaning here; others are their owner's.
const OWN_SECRET_PREFIX: &str = "webhook.";

/// What a secret is for, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretUse<'a> {
    /// Signs deliveries.
    Signing,
    /// Is sent as the header of that name.
    Header(&'a str),
    /// Begins like a known id and is not one: it is misspelt.
    Unknown,
    /// Belongs to the owner and means nothing here.
    Other,
}

impl<'a> SecretUse<'a> {
    /// What the secret with that id is for.
    pub(crate) fn of(id: &'a str) -> Self {
        match id.strip_prefix(HEADER_SECRET_PREFIX) {
            Some(name) if !name.is_empty() => Self::Header(name),
            Some(_) | None if id == SIGNING_SECRET => Self::Signing,
            Some(_) | None => {
                let begin = id.get(..OWN_SECRET_PREFIX.len());
                let is_ours = begin.is_some_and(|begin| begin.eq_ignore_ascii_case(OWN_SECRET_PREFIX));
                if is_ours { Self::Unknown } else { Self::Other }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_secret_is_for_is_in_its_id() {
        for (id, used) in [
            ("webhook.signingSecret", SecretUse::Signing),
            ("webhook.header.X-Key", SecretUse::Header("X-Key")),
            ("webhook.signingsecret", SecretUse::Unknown),
            ("webhook.header.", SecretUse::Unknown),
            ("WebHook.signingSecret", SecretUse::Unknown),
            ("webhook.", SecretUse::Unknown),
            ("webhook", SecretUse::Other),
            ("crm.webhook.x", SecretUse::Other),
            ("", SecretUse::Other),
        ] {
            assert_eq!(SecretUse::of(id), used, "{id}");
        }
    }
}
