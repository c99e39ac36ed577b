//! Standard Webhooks signatures: `v1,<base64 of HMAC-SHA256(id.timestamp.body)>`, one for each secret of a rotation.
//!
//! Keys are prepared once and kept; signing writes into a buffer of the caller's and allocates nothing else. No secret
//! ever leaves this file: not in an error, not in a debug text.

use std::fmt;
use std::io::Write as _;

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

/// Bytes of the longest `i64` in decimal.
const TIMESTAMP_BYTES_MAX: usize = 20;

/// Standard alphabet. Padding may be left out and stray last bits are ignored when reading, as other implementations do;
/// padding is always written.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What is wrong with a secret. Never holds the secret itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    /// Nothing to sign with.
    #[error("the signing secret is empty: expected whsec_ and base64")]
    Empty,
    /// The prefix promises base64 that is not there.
    #[error("the signing secret begins with whsec_ but no base64 follows: expected whsec_ and base64")]
    NotBase64,
}

/// A prepared HMAC-SHA256 key.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Key);

impl SigningKey {
    /// Prepares the key of one secret, white space around it ignored: the bytes that its base64 stands for, after
    /// `whsec_` if it begins so. Whatever is no base64 is taken as it is, so that every secret signs and its owner sees
    /// at the receiver whether both sides read it alike; [`SigningKey::check`] tells where it can still be refused.
    pub(crate) fn parse(secret: &str) -> Self {
        let secret = secret.trim();
        let encoded = secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret);
        let key = BASE64.decode(encoded).unwrap_or_else(|_| secret.as_bytes().to_vec());
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// Whether a secret is one that other implementations of Standard Webhooks read in the same way.
    ///
    /// # Errors
    /// [`BadSecret`] for a secret without bytes, and for `whsec_` followed by anything but base64.
    pub(crate) fn check(secret: &str) -> Result<(), BadSecret> {
        let secret = secret.trim();
        let key = secret.strip_prefix(SECRET_PREFIX);
        if key.unwrap_or(secret).is_empty() {
            return Err(BadSecret::Empty);
        }
        match key {
            Some(encoded) if BASE64.decode(encoded).is_err() => Err(BadSecret::NotBase64),
            Some(_) | None => Ok(()),
        }
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
    /// A signer with these keys, in their order; those after the first [`KEYS_MAX`] are left out.
    pub(crate) fn new(mut keys: Vec<SigningKey>) -> Self {
        keys.truncate(KEYS_MAX);
        Self { keys: keys.into() }
    }

    /// Whether there is no key: then nothing is signed and no header is sent.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Appends the value of `webhook-signature` to `out`: `v1,<base64>` for each key, separated by a space.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8], out: &mut String) {
        let mut digits = [0; TIMESTAMP_BYTES_MAX];
        let digits = decimal(timestamp, &mut digits);
        for (index, SigningKey(key)) in self.keys.iter().enumerate() {
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
        let mut digits = [0; TIMESTAMP_BYTES_MAX];
        let signed = [id.as_bytes(), b".", decimal(timestamp, &mut digits), b".", body].concat();
        signatures
            .split_ascii_whitespace()
            .take(SIGNATURES_MAX)
            .filter_map(|signature| BASE64.decode(signature.strip_prefix(VERSION_PREFIX)?).ok())
            .any(|tag| self.keys.iter().any(|SigningKey(key)| hmac::verify(key, &signed, &tag).is_ok()))
    }
}

fn decimal(number: i64, buffer: &mut [u8; TIMESTAMP_BYTES_MAX]) -> &[u8] {
    let mut rest = buffer.as_mut_slice();
    write!(rest, "{number}").expect("the buffer takes the longest i64");
    let left = rest.len();
    buffer.get(..TIMESTAMP_BYTES_MAX - left).expect("what is left is no more than there was")
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
        Signer::new(secrets.iter().map(|secret| SigningKey::parse(secret)).collect())
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
    fn the_prefix_padding_and_space_around_may_be_missing_or_there() {
        for secret in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"] {
            assert_eq!(signed(&[secret]), SIGNATURE, "{secret:?}");
        }
        assert_eq!(signed(&["whsec_c2VjcmV0IQ=="]), signed(&["whsec_c2VjcmV0IQ"]));
        assert_eq!(signed(&["whsec_c2VjcmV0IQ=="]), signed(&["secret!"]), "no base64: its bytes are the key");
        assert_eq!(signed(&["whsec_d2hzZWNfIQ"]), signed(&["whsec_!"]), "the same with a prefix");
    }

    #[test]
    fn a_rotation_signs_with_both_secrets_and_each_verifies() {
        let both = signed(&["whsec_b2xkZXI=", SECRET]);
        assert_eq!(both, format!("{} {SIGNATURE}", signed(&["whsec_b2xkZXI="])));
        assert!(signer(&["whsec_b2xkZXI="]).verify(ID, TIMESTAMP, BODY, &both));
        assert!(signer(&[SECRET]).verify(ID, TIMESTAMP, BODY, &both));
        assert!(signer(&["whsec_bmV3ZXI=", SECRET]).verify(ID, TIMESTAMP, BODY, SIGNATURE));
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
    fn bad_secrets_are_told_apart_and_never_shown() {
        #[track_caller]
        fn check(secret: &str, expected: Result<(), BadSecret>) {
            assert_eq!(SigningKey::check(secret), expected);
        }
        check(SECRET, Ok(()));
        check("any words at all", Ok(()));
        check(" ", Err(BadSecret::Empty));
        check("whsec_", Err(BadSecret::Empty));
        check("whsec_not base64!", Err(BadSecret::NotBase64));
        assert_eq!(format!("{:?}", signer(&[SECRET])), "Signer { keys: [SigningKey(***)] }");
    }

    #[test]
    fn keys_beyond_the_bound_are_left_out() {
        assert_eq!(signed(&[SECRET; KEYS_MAX + 1]), signed(&[SECRET; KEYS_MAX]));
        assert_ne!(signed(&[SECRET; KEYS_MAX - 1]), signed(&[SECRET; KEYS_MAX]));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_a_changed_body_does_not(
            secret in proptest::collection::vec(any::<u8>(), 1..80),
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
