//! The token with which a scan continues. It holds the position itself: no process remembers a scan, so any process can continue it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ReadError;
use crate::domain::text::push_hex;

/// The beginning of every token. A later form gets another number.
const VERSION: &str = "1";
/// Bytes of the digest that says which question it belongs to: not a secret, but a guard against mistakes.
const DIGEST_BYTES: usize = 8;
/// More partitions than any topic of ours has.
const PARTITIONS_MAX: usize = 10_000;

/// Where a scan continues: for each partition that is not read to its floor, the offset before which it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    question: String,
    ceilings: BTreeMap<i32, i64>,
}

impl Token {
    /// The token of a scan that asks `question` (see [`digest`]).
    pub(super) fn new(question: String, ceilings: BTreeMap<i32, i64>) -> Self {
        Self { question, ceilings }
    }

    /// By partition, the offset before which to go on. A partition that is missing is read.
    pub(super) fn ceilings(&self) -> &BTreeMap<i32, i64> {
        &self.ceilings
    }

    /// The text, of characters that need no escape in a URL.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{VERSION}.{}", self.question);
        for (partition, offset) in &self.ceilings {
            // Writing into a String can't fail.
            if write!(text, ".{partition}-{offset}").is_err() {
                break;
            }
        }
        text
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`ReadError::Token`]: it is not a token, or it is one of another question.
    pub(super) fn parse(text: &str, question: &str) -> Result<Self, ReadError> {
        let mut parts = text.split('.');
        if parts.next() != Some(VERSION) || parts.next() != Some(question) {
            return Err(ReadError::Token);
        }
        let mut ceilings = BTreeMap::new();
        for part in parts {
            let (partition, offset) = part.split_once('-').ok_or(ReadError::Token)?;
            let partition = number(partition).and_then(|number| i32::try_from(number).ok()).ok_or(ReadError::Token)?;
            ceilings.insert(partition, number(offset).ok_or(ReadError::Token)?);
            if ceilings.len() > PARTITIONS_MAX {
                return Err(ReadError::Token);
            }
        }
        Ok(Self { question: question.to_owned(), ceilings })
    }
}

/// Separates the tokens of several scans of one answer.
const BETWEEN: char = '~';

/// The tokens of an answer that several scans make: those of the scans that are not complete.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens<'a>(Vec<&'a str>);

impl<'a> Tokens<'a> {
    /// Reads what [`Tokens::text`] wrote for the answer to `question`.
    ///
    /// # Errors
    /// [`ReadError::Token`]: it is one of another answer.
    pub(super) fn parse(text: Option<&'a str>, question: &str) -> Result<Self, ReadError> {
        let Some(text) = text else { return Ok(Self::default()) };
        let mut parts = text.split(BETWEEN);
        if parts.next() != Some(question) {
            return Err(ReadError::Token);
        }
        Ok(Self(parts.collect()))
    }

    /// The token of the scan that asks `question` (see [`digest`]), if it was not complete.
    pub(super) fn of(&self, question: &str) -> Option<&'a str> {
        self.0.iter().find(|token| token.split('.').nth(1) == Some(question)).copied()
    }

    /// The text of `tokens`. `None` when every scan is complete.
    pub(super) fn text(question: &str, tokens: &[Token]) -> Option<String> {
        let parts = tokens.iter().map(Token::text);
        let text: Vec<String> = std::iter::once(question.to_owned()).chain(parts).collect();
        (!tokens.is_empty()).then(|| text.join(&BETWEEN.to_string()))
    }
}

fn number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Names a question: the same in every process for the same parts.
pub(super) fn digest(parts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut text = String::with_capacity(2 * DIGEST_BYTES);
    push_hex(&mut text, context.finish().as_ref().get(..DIGEST_BYTES).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_only_for_its_question() {
        let question = digest(&["attempts", "ws"]);
        let token = Token::new(question.clone(), BTreeMap::from([(0, 7), (11, 1_000_000)]));
        assert_eq!(Token::parse(&token.text(), &question).unwrap(), token);
        assert!(token.text().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)));
        let other = digest(&["attemptsw", "s"]);
        assert!(matches!(Token::parse(&token.text(), &other), Err(ReadError::Token)));
    }

    #[test]
    fn each_scan_of_an_answer_finds_its_own_token_again() {
        let (answer, one, other) = (digest(&["trace"]), digest(&["attempts"]), digest(&["dead"]));
        let token = Token::new(one.clone(), BTreeMap::from([(3, 9)]));
        assert_eq!(Tokens::text(&answer, &[]), None);
        let text = Tokens::text(&answer, std::slice::from_ref(&token)).unwrap();
        let tokens = Tokens::parse(Some(&text), &answer).unwrap();
        assert_eq!(tokens.of(&one), Some(token.text().as_str()));
        assert_eq!(tokens.of(&other), None);
        assert!(matches!(Tokens::parse(Some(&text), &other), Err(ReadError::Token)));
        assert_eq!(Tokens::parse(None, &other).unwrap().of(&one), None);
    }

    #[test]
    fn a_text_that_is_not_a_token_is_refused() {
        let question = digest(&[]);
        for bad in ["", "1", "2.{q}", "1.{q}.0", "1.{q}.0-", "1.{q}.-1-5", "1.{q}.0-5x", "1.{q}.0-99999999999999999999"]
        {
            let text = bad.replace("{q}", &question);
            assert!(Token::parse(&text, &question).is_err(), "{text}");
        }
        let long: Vec<String> = (0..=PARTITIONS_MAX).map(|partition| format!("{partition}-1")).collect();
        assert!(Token::parse(&format!("1.{question}.{}", long.join(".")), &question).is_err());
    }
}
