//! The health of an integration: a state and its word. How it is counted is in `health`.

/// What an integration's attempts say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// No fault is known.
    #[default]
    Active,
    /// At least half of its attempts fail; still delivered to.
    HasErrors,
    /// It kept failing; no longer delivered to.
    Failed,
}

impl Health {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Active, Self::HasErrors, Self::Failed];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::HasErrors => "hasErrors",
            Self::Failed => "failed",
        }
    }

    /// Reads a word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.word() == word)
    }
}
