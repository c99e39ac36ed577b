//! Ids as they are compared: GUIDs without case, everything else as it is. The CRM prints GUIDs in both spellings.

use std::borrow::Cow;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The 16 bytes of a dashed GUID in either case. `None` for any other text.
pub(crate) fn parse(text: &str) -> Option<[u8; 16]> {
    // The only form of this length that the parser takes is the dashed one.
    if text.len() != Hyphenated::LENGTH {
        return None;
    }
    Uuid::try_parse(text).ok().map(Uuid::into_bytes)
}

/// The dashed GUID of these bytes, in small letters.
pub(crate) fn text(bytes: [u8; 16]) -> String {
    Uuid::from_bytes(bytes).hyphenated().to_string()
}

/// The id in the one spelling that ids are compared in: a GUID in small letters, any other text unchanged.
pub(crate) fn canonical(id: &str) -> Cow<'_, str> {
    let is_written_otherwise = id.len() == Hyphenated::LENGTH && id.bytes().any(|byte| byte.is_ascii_uppercase());
    match is_written_otherwise.then(|| parse(id)).flatten() {
        Some(bytes) => Cow::Owned(text(bytes)),
        None => Cow::Borrowed(id),
    }
}

/// A record's key `<workspace>/<integration id>` with the id in the spelling that ids are compared in.
pub(crate) fn canonical_key(key: &str) -> Cow<'_, str> {
    let Some((workspace, id)) = key.rsplit_once('/') else { return Cow::Borrowed(key) };
    match canonical(id) {
        Cow::Borrowed(_) => Cow::Borrowed(key),
        Cow::Owned(id) => Cow::Owned(format!("{workspace}/{id}")),
    }
}

/// A random GUID (version 4) out of these random bytes.
pub(crate) fn random(bytes: [u8; 16]) -> String {
    uuid::Builder::from_random_bytes(bytes).into_uuid().hyphenated().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_compare_without_case_and_other_ids_as_they_are() {
        let small = "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5";
        for spelling in [small, "A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5", "a5aad3c1-777B-4ae5-8ca1-60b94c0423e5"] {
            assert_eq!(canonical(spelling), small);
            assert_eq!(canonical_key(&format!("Acme/{spelling}")), format!("Acme/{small}"));
        }
        for other in [
            "",
            "Acme",
            "A5AAD3C1777b4ae58ca160b94c0423e5",
            "{A5AAD3C1-777b-4ae5-8ca1-60b94c0423e5}",
            "A5AAD3C1-777b-4ae58-ca1-60b94c0423e5",
            "A5AAD3C1-777b-4ae5-8ca1-60b94c0423eG",
            "URN:UUID:A5AAD3C1-777b-4ae5-8ca1-60b9",
        ] {
            assert_eq!(canonical(other), other);
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn random_guids_say_their_version() {
        assert_eq!(random([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(random([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
