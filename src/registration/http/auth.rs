//! Who may change what: bearer tokens from a file, read again on demand. A token is never kept as it is, only its digest,
//! and a lookup takes the same time whichever token is right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use parking_lot::RwLock;
use ring::digest::{SHA256, digest};

/// The other header a token may come in.
pub(super) const ACCESS_KEY: &str = "x-xcom-accesskey";
/// A tokens file of more is a mistake.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a tokens file can't be used. Never holds a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTokens {
    /// It can't be read.
    #[error("--api-tokens-file {file}: {error}; expected a file with a token and the workspaces it may change a line")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is too large.
    #[error(
        "--api-tokens-file {0}: larger than 16 MiB; expected a file with a token and the workspaces it may change a line"
    )]
    TooLarge(PathBuf),
    /// A line is no token.
    #[error(
        "--api-tokens-file {file}, line {line}: {what}; a line is a token and then the workspaces it may change, or *, separated by spaces"
    )]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Which workspaces a token may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// Every one.
    All,
    /// These.
    Workspaces(BTreeSet<String>),
}

impl Grant {
    /// Whether the workspace is one of them.
    pub(super) fn covers(&self, workspace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Workspaces(workspaces) => workspaces.contains(workspace),
        }
    }
}

/// Digests of the tokens, with their grants.
#[derive(Default)]
pub(super) struct Set(Vec<([u8; 32], Arc<Grant>)>);

/// The tokens in force.
pub(super) struct Tokens {
    file: Option<PathBuf>,
    set: RwLock<Arc<Set>>,
}

impl Tokens {
    /// Reads the tokens; without a file there are none, and nobody may do anything.
    ///
    /// # Errors
    /// [`BadTokens`]: a start with a bad file would lock everyone out in silence.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, BadTokens> {
        let set = if let Some(file) = file {
            let set = read(file)?;
            tracing::info!(file = %file.display(), tokens = set.0.len(), "tokens read");
            set
        } else {
            tracing::warn!("no --api-tokens-file: every request will be answered with 401");
            Set::default()
        };
        Ok(Self { file: file.map(Path::to_owned), set: RwLock::new(Arc::new(set)) })
    }

    /// One token, not from a file, for one workspace.
    pub(super) fn one(token: &str, workspace: &str) -> Self {
        let grant = Grant::Workspaces([workspace.to_owned()].into());
        let set = Set(vec![(hash(token.as_bytes()), Arc::new(grant))]);
        Self { file: None, set: RwLock::new(Arc::new(set)) }
    }

    /// Reads the file again; a bad one leaves the tokens as they were.
    pub(super) fn reload(&self) {
        let Some(file) = &self.file else { return };
        match read(file) {
            Ok(set) => {
                tracing::info!(file = %file.display(), tokens = set.0.len(), "tokens read again");
                *self.set.write() = Arc::new(set);
            }
            Err(error) => {
                let error = super::chain(&error);
                tracing::error!(%error, "the tokens stay as they were");
            }
        }
    }

    /// What the request's token may do; `None` without a token that is known.
    pub(super) fn grant(&self, headers: &HeaderMap) -> Option<Arc<Grant>> {
        let set = Arc::clone(&self.set.read());
        set.find(token(headers)?)
    }
}

impl Set {
    /// Compares with every token, each in constant time: nothing about a near miss shows.
    fn find(&self, token: &[u8]) -> Option<Arc<Grant>> {
        let asked = hash(token);
        let mut found = None;
        for (known, grant) in &self.0 {
            let difference = known.iter().zip(asked).fold(0, |difference, (one, other)| difference | (one ^ other));
            if std::hint::black_box(difference) == 0 {
                found = Some(grant);
            }
        }
        found.cloned()
    }
}

/// The token of a request: of `Authorization: Bearer`, else of `X-XCOM-AccessKey`.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    bearer
        .or_else(|| headers.get(ACCESS_KEY).map(|value| value.as_bytes().trim_ascii()))
        .filter(|token| !token.is_empty())
}

fn hash(token: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// Reads a tokens file.
///
/// # Errors
/// [`BadTokens`]
pub(super) fn read(file: &Path) -> Result<Set, BadTokens> {
    let unreadable = |error| BadTokens::Read { file: file.to_owned(), error };
    if std::fs::metadata(file).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(BadTokens::TooLarge(file.to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    parse(&text).map_err(|(line, what)| BadTokens::Line { file: file.to_owned(), line, what })
}

/// Reads the lines; a token on several has the workspaces of all. The error is a line's number and what is wrong with it.
fn parse(text: &str) -> Result<Set, (usize, &'static str)> {
    let mut grants: BTreeMap<[u8; 32], BTreeSet<String>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let digest = hash(words.next().unwrap_or_default().as_bytes());
        let workspaces: BTreeSet<String> = words.map(str::to_owned).collect();
        if workspaces.is_empty() {
            return Err((index + 1, "no workspace"));
        }
        grants.entry(digest).or_default().extend(workspaces);
    }
    let grant = |workspaces: BTreeSet<String>| {
        Arc::new(if workspaces.contains("*") { Grant::All } else { Grant::Workspaces(workspaces) })
    };
    Ok(Set(grants.into_iter().map(|(digest, workspaces)| (digest, grant(workspaces))).collect()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn tokens_come_with_their_workspaces() {
        let set = parse("# people\n\none  acme beta\ntwo *\n  three\tacme # beta\n").unwrap();
        let one = set.find(b"one").unwrap();
        assert!(one.covers("acme") && one.covers("beta") && !one.covers("acmebeta") && !one.covers(""));
        assert!(set.find(b"two").unwrap().covers("anything"));
        assert!(set.find(b"three").unwrap().covers("beta"));
        let set = parse("one acme\ntwo acme\none beta\ntwo *").unwrap();
        assert!(["acme", "beta"].iter().all(|workspace| set.find(b"one").unwrap().covers(workspace)));
        assert!(!set.find(b"one").unwrap().covers("gamma") && set.find(b"two").unwrap().covers("gamma"));
        for unknown in ["", "on", "one ", "onee", "acme", "#"] {
            assert!(set.find(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_bad_line_is_named_without_its_token() {
        assert_eq!(parse("a *\nsecret\n").err(), Some((2, "no workspace")));
    }

    #[test]
    fn tokens_come_in_either_header() {
        for (name, value) in
            [("authorization", "Bearer one"), ("authorization", "bearer  one "), ("x-xcom-accesskey", "one")]
        {
            assert_eq!(token(&headers(name, value)), Some(b"one".as_slice()), "{name}: {value}");
        }
        for (name, value) in [("authorization", "Basic one"), ("authorization", "Bearer"), ("x-xcom-accesskey", " ")] {
            assert_eq!(token(&headers(name, value)), None, "{name}: {value}");
        }
    }

    #[test]
    fn a_bad_file_leaves_the_tokens_as_they_were() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"one acme\n").unwrap();
        let tokens = Tokens::open(Some(file.path())).unwrap();
        let asks = |token: &str| tokens.grant(&headers("x-xcom-accesskey", token)).is_some();
        assert!(asks("one"));
        std::fs::write(file.path(), "two\n").unwrap();
        tokens.reload();
        assert!(asks("one"));
        std::fs::write(file.path(), "two acme\n").unwrap();
        tokens.reload();
        assert!(!asks("one") && asks("two"));
        std::fs::remove_file(file.path()).unwrap();
        tokens.reload();
        assert!(asks("two"));
        assert!(Tokens::open(Some(file.path())).is_err());
    }

    #[test]
    fn without_a_file_nobody_may_do_anything() {
        assert!(Tokens::open(None).unwrap().grant(&headers("authorization", "Bearer x")).is_none());
    }
}
