//! What a token may do in a workspace. The tokens and their rights are in `auth`.

use std::fmt;

/// One thing that a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// See integrations (secrets masked), health, attempts and the headers of dead letters.
    Read,
    /// See the bytes of events, and what receivers answered.
    Body,
    /// Test, resume, redrive and replay.
    Operate,
    /// Register: change, create and remove integrations.
    Write,
}

impl Right {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Body, Self::Operate, Self::Write];

    /// The word in a tokens file.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Body => "body",
            Self::Operate => "operate",
            Self::Write => "write",
        }
    }

    /// Reads the word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.word() == word)
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    /// Every right.
    pub(crate) const ALL: Self = Self(0b1111);

    /// The rights of both.
    pub(crate) fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether the right is one of them.
    pub(crate) fn allow(self, right: Right) -> bool {
        self.0 & Self::from(right).0 != 0
    }

    /// Whether the set is empty.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        Self(1 << right as u8)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Right::ALL.into_iter().filter(|right| self.allow(*right)).map(Right::word);
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it_and_nothing_else() {
        let some = Rights::from(Right::Read).with(Right::Operate.into());
        assert!(some.allow(Right::Read) && some.allow(Right::Operate));
        assert!(!some.allow(Right::Body) && !some.allow(Right::Write));
        assert_eq!(
            (some.to_string().as_str(), Rights::ALL.to_string().as_str()),
            ("read,operate", "read,body,operate,write")
        );
        assert!(Rights::default().is_empty() && !some.is_empty());
        assert!(Right::ALL.iter().all(|right| Right::parse(right.word()) == Some(*right)));
    }
}
