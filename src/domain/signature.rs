//! Standard Webhooks signatures: `v1,<base64 of HMAC-SHA256(id.timestamp.body)>`, one for each secret of a rotation.
//!
//! Keys are prepared once and kept; signing writes into a buffer of the caller's and allocates nothing else. No secret
//! ever leaves this file: not in an error, not in a debug text.

use std::cmp::Reverse;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::hmac;

/// What a Standard Webhooks secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// What a symmetric signature begins with.
const VERSION_PREFIX: &str = "v1,";

/// Secrets in force at once. Each one hashes every body again, so a record must not be able to hold thousands; a
/// rotation needs two.
pub(crate) const KEYS_MAX: usize = 8;

/// Signatures of one header that [`Signer::verify`] looks at: a sender in rotation has two, no honest one has more than
/// [`KEYS_MAX`].
const SIGNATURES_MAX: usize = KEYS_MAX;

/// Standard alphabet. Padding may be left out and stray last bits are ignored when reading, as other implementations do;
/// padding is always written.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes that a key may have: Standard Webhooks' bounds.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of a fresh key.
pub(crate) const FRESH_KEY_BYTES: usize = 32;

/// What is wrong with a secret. Never holds the secret itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    /// No `whsec_` in front.
    #[error("a signing secret begins with whsec_; expected whsec_ and the base64 of 24 to 64 bytes")]
    NoPrefix,
    /// The prefix promises base64 that is not there.
    #[error("no base64 follows whsec_; expected the base64 of 24 to 64 bytes")]
    NotBase64,
    /// Too short to be safe, or too long to be a key.
    #[error("the base64 behind whsec_ has {0} bytes; expected 24 to 64")]
    Length(usize),
}

/// A secret out of these random bytes.
pub(crate) fn fresh_secret(bytes: [u8; FRESH_KEY_BYTES]) -> String {
    format!("{SECRET_PREFIX}{}", BASE64.encode(bytes))
}

/// A prepared HMAC-SHA256 key, and the second since 1970 at which it stops signing.
#[derive(Clone)]
pub(crate) struct SigningKey {
    key: hmac::Key,
    until_s: Option<i64>,
}

impl SigningKey {
    /// Prepares the key of one secret, white space around it ignored: the bytes of its base64, after `whsec_`. It
    /// signs until `until_s`, seconds since 1970, or for good.
    ///
    /// # Errors
    /// [`BadSecret`] for a secret that other implementations of Standard Webhooks read in another way or not at all.
    pub(crate) fn parse(secret: &str, until_s: Option<i64>) -> Result<Self, BadSecret> {
        let encoded = secret.trim().strip_prefix(SECRET_PREFIX).ok_or(BadSecret::NoPrefix)?;
        let key = BASE64.decode(encoded).map_err(|_no_base64| BadSecret::NotBase64)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(BadSecret::Length(key.len()));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), until_s })
    }

    fn is_in_force(&self, at_s: i64) -> bool {
        self.until_s.is_none_or(|until| at_s < until)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// Signs, and verifies, with every secret in force.
#[derive(Clone, Debug, Default)]
pub struct Signer {
    keys: Box<[SigningKey]>,
}

impl Signer {
    /// A signer with these keys, in their order. Of more than [`KEYS_MAX`] those that sign longest stay, the first of them if they
    /// sign equally long: so a key that has ended keeps no other out.
    pub(crate) fn new(keys: Vec<SigningKey>) -> Self {
        let mut keys: Vec<(usize, SigningKey)> = keys.into_iter().enumerate().collect();
        keys.sort_by_key(|(_, key)| Reverse(key.until_s.unwrap_or(i64::MAX)));
        keys.truncate(KEYS_MAX);
        keys.sort_by_key(|(place, _)| *place);
        Self { keys: keys.into_iter().map(|(_, key)| key).collect() }
    }

    /// Whether there is no key: then nothing is signed and no header is sent.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Appends the value of `webhook-signature` to `out`: `v1,<base64>` for each key that is in force at `timestamp` (seconds since
    /// 1970), separated by a space. Appends nothing without a key.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8], out: &mut String) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(timestamp).as_bytes();
        let in_force = self.keys.iter().filter(|key| key.is_in_force(timestamp));
        for (index, SigningKey { key, .. }) in in_force.enumerate() {
            let mut context = hmac::Context::with_key(key);
            for part in [id.as_bytes(), b".", digits, b".", body] {
                context.update(part);
            }
            if index > 0 {
                out.push(' ');
            }
            out.push_str(VERSION_PREFIX);
            BASE64.encode_string(context.sign(), out);
        }
    }

    /// Whether `signatures`, a `webhook-signature` header, holds one made with one of these keys. Compares in constant
    /// time and looks at no more than the first [`KEYS_MAX`] signatures.
    pub(crate) fn verify(&self, id: &str, timestamp: i64, body: &[u8], signatures: &str) -> bool {
        let mut digits = itoa::Buffer::new();
        let signed = [id.as_bytes(), b".", digits.format(timestamp).as_bytes(), b".", body].concat();
        signatures
            .split_ascii_whitespace()
            .take(SIGNATURES_MAX)
            .filter_map(|signature| BASE64.decode(signature.strip_prefix(VERSION_PREFIX)?).ok())
            .any(|tag| self.keys.iter().any(|key| hmac::verify(&key.key, &signed, &tag).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn signer(secrets: &[&str]) -> Signer {
        Signer::new(secrets.iter().map(|secret| SigningKey::parse(secret, None).unwrap()).collect())
    }

    fn signed(secrets: &[&str]) -> String {
        let mut out = String::new();
        signer(secrets).sign(ID, TIMESTAMP, BODY, &mut out);
        out
    }

    #[test]
    fn the_published_example_is_reproduced() {
        assert_eq!(signed(&[SECRET]), SIGNATURE);
        assert!(signer(&[SECRET]).verify(ID, TIMESTAMP, BODY, SIGNATURE));
    }

    #[test]
    fn padding_and_space_around_may_be_missing_or_there() {
        assert_eq!(signed(&[" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"]), SIGNATURE);
        let encoded = BASE64.encode([7; 25]);
        assert_eq!(
            signed(&[&format!("whsec_{encoded}")]),
            signed(&[&format!("whsec_{}", encoded.trim_end_matches('='))])
        );
    }

    const OTHER: &str = "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_rotation_signs_with_both_secrets_and_each_verifies() {
        let both = signed(&[OTHER, SECRET]);
        assert_eq!(both, format!("{} {SIGNATURE}", signed(&[OTHER])));
        assert!(signer(&[OTHER]).verify(ID, TIMESTAMP, BODY, &both));
        assert!(signer(&[SECRET]).verify(ID, TIMESTAMP, BODY, &both));
        assert!(signer(&[OTHER, SECRET]).verify(ID, TIMESTAMP, BODY, SIGNATURE));
    }

    #[test]
    fn a_secret_signs_until_its_time_is_over() {
        let key = |secret, until_s| SigningKey::parse(secret, until_s).unwrap();
        let signer = Signer::new(vec![key(OTHER, Some(TIMESTAMP)), key(SECRET, None), key(OTHER, Some(TIMESTAMP + 1))]);
        let signed_at = |timestamp| {
            let mut out = String::new();
            signer.sign(ID, timestamp, BODY, &mut out);
            out.split(' ').count()
        };
        assert_eq!([TIMESTAMP - 1, TIMESTAMP, TIMESTAMP + 1].map(signed_at), [3, 2, 1]);
        let mut out = String::new();
        Signer::new(vec![key(OTHER, Some(TIMESTAMP))]).sign(ID, TIMESTAMP, BODY, &mut out);
        assert_eq!(out, "");
    }

    #[test]
    fn signing_appends_and_without_a_key_writes_nothing() {
        let mut out = "kept ".to_owned();
        signer(&[SECRET]).sign(ID, TIMESTAMP, BODY, &mut out);
        assert_eq!(out, format!("kept {SIGNATURE}"));
        assert!(signer(&[]).is_empty());
        assert_eq!(signed(&[]), "");
    }

    #[test]
    fn anything_changed_fails_verification() {
        let signer = signer(&[SECRET]);
        assert!(!signer.verify("msg_other", TIMESTAMP, BODY, SIGNATURE));
        assert!(!signer.verify(ID, TIMESTAMP + 1, BODY, SIGNATURE));
        assert!(!signer.verify(ID, TIMESTAMP, b"{}", SIGNATURE));
        for bad in ["", "v1,", "v1a,g0hM", &SIGNATURE.replace("v1,", "v2,"), &SIGNATURE.replace("g0", "h0"), "v1,g0hM"]
        {
            assert!(!signer.verify(ID, TIMESTAMP, BODY, bad), "{bad}");
        }
        assert!(!Signer::default().verify(ID, TIMESTAMP, BODY, SIGNATURE), "no key verifies nothing");
    }

    #[test]
    fn only_the_first_signatures_of_a_header_are_looked_at() {
        let padded = |count: usize| format!("{}{SIGNATURE}", "v1,AAAA ".repeat(count));
        assert!(signer(&[SECRET]).verify(ID, TIMESTAMP, BODY, &padded(SIGNATURES_MAX - 1)));
        assert!(!signer(&[SECRET]).verify(ID, TIMESTAMP, BODY, &padded(SIGNATURES_MAX)));
    }

    #[test]
    fn bad_secrets_are_distinguished_and_never_shown() {
        #[track_caller]
        fn check(secret: &str, expected: Result<(), BadSecret>) {
            assert_eq!(SigningKey::parse(secret, None).map(|_| ()), expected, "{secret}");
        }
        let of = |bytes| format!("whsec_{}", BASE64.encode(vec![1; bytes]));
        check(SECRET, Ok(()));
        check(&fresh_secret([9; FRESH_KEY_BYTES]), Ok(()));
        check(&of(24), Ok(()));
        check(&of(64), Ok(()));
        check(&of(23), Err(BadSecret::Length(23)));
        check(&of(65), Err(BadSecret::Length(65)));
        check("whsec_", Err(BadSecret::Length(0)));
        check("whsec_not base64!", Err(BadSecret::NotBase64));
        for bare in
            ["", " ", "any words at all", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        {
            check(bare, Err(BadSecret::NoPrefix));
        }
        assert_eq!(format!("{:?}", signer(&[SECRET])), "Signer { keys: [SigningKey(***)] }");
    }

    #[test]
    fn keys_beyond_the_bound_are_left_out() {
        assert_eq!(signed(&[SECRET; KEYS_MAX + 1]), signed(&[SECRET; KEYS_MAX]));
        assert_ne!(signed(&[SECRET; KEYS_MAX - 1]), signed(&[SECRET; KEYS_MAX]));
    }

    #[test]
    fn keys_that_have_ended_keep_no_other_out() {
        let key = |secret, until_s| SigningKey::parse(secret, until_s).unwrap();
        let mut keys = vec![key(OTHER, Some(TIMESTAMP)); KEYS_MAX];
        keys.extend([key(SECRET, Some(TIMESTAMP + 1)), key(OTHER, None)]);
        let mut out = String::new();
        Signer::new(keys).sign(ID, TIMESTAMP, BODY, &mut out);
        assert_eq!(out, format!("{SIGNATURE} {}", signed(&[OTHER])), "in the order of the record");
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_a_changed_body_does_not(
            secret in proptest::collection::vec(any::<u8>(), 24..65),
            id in "[ -~]{0,40}",
            timestamp: i64,
            body: Vec<u8>,
            other: Vec<u8>,
        ) {
            let signer = signer(&[&format!("whsec_{}", BASE64.encode(&secret))]);
            let mut out = String::new();
            signer.sign(&id, timestamp, &body, &mut out);
            prop_assert!(signer.verify(&id, timestamp, &body, &out));
            prop_assert_eq!(signer.verify(&id, timestamp, &other, &out), other == body);
        }
    }
}
