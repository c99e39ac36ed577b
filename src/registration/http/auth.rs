//! The rights of callers: bearer tokens from a file, each with its rights by workspace, read again on demand. Only the digest
//! of a token is kept, and a lookup takes the same time for every token.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use parking_lot::RwLock;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use super::rights::{Right, Rights};
use crate::domain::text::push_hex;
use crate::registration::faults::is_name;

/// The other header a token may come in.
pub(crate) const ACCESS_KEY: &str = "x-xcom-accesskey";
/// A tokens file of more is a mistake.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a tokens file can't be used. Never holds a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadTokens {
    /// It can't be read.
    #[error("--api-tokens-file {file}: {error}; expected a file of lines, each with a token and its workspaces")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is too large.
    #[error(
        "--api-tokens-file {0}: larger than 16 MiB; expected a file of lines, each with a token and its workspaces"
    )]
    TooLarge(PathBuf),
    /// A line is not valid.
    #[error("--api-tokens-file {file}, line {line}: {what}; {EXPECTED}")]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The accepted form of a line, for messages.
const EXPECTED: &str = "a line is a token and its workspaces, separated by spaces: a name or * for all of them, and rights \
                        after a colon where it has not all: `TOKEN acme:read initech:operate,body *:read`; # begins a comment";

/// The key in a [`Grant`] of the rights that hold for every workspace.
const EVERY: &str = "*";

/// The rights of a token, by workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The beginning of its digest: names the token in the audit trail without disclosing it.
    name: String,
    by_workspace: BTreeMap<String, Rights>,
}

impl Grant {
    fn of(digest: &[u8; 32]) -> Self {
        let mut name = "token-".to_owned();
        push_hex(&mut name, digest.get(..NAME_BYTES).unwrap_or_default());
        Self { name, by_workspace: BTreeMap::new() }
    }

    /// Adds rights in a workspace, or in every one.
    fn add(&mut self, workspace: &str, rights: Rights) {
        let known = self.by_workspace.entry(workspace.to_owned()).or_default();
        *known = known.with(rights);
    }

    /// A name for the token: the beginning of its digest.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The workspaces that are named, each with some right.
    pub(crate) fn workspaces(&self) -> impl Iterator<Item = &str> {
        self.by_workspace.keys().map(String::as_str).filter(|name| *name != EVERY)
    }

    /// Whether some right holds in every workspace.
    pub(crate) fn covers_every(&self) -> bool {
        self.by_workspace.contains_key(EVERY)
    }

    /// The token's rights in the workspace, those for every workspace included.
    pub(crate) fn rights(&self, workspace: &str) -> Rights {
        let of = |name: &str| self.by_workspace.get(name).copied().unwrap_or_default();
        of(workspace).with(of(EVERY))
    }
}

/// Lines with a repeated token that are named.
const REPEATED_MAX: usize = 10;
/// Bytes of a digest that name its token.
const NAME_BYTES: usize = 4;

/// Digests of the tokens, with their grants.
#[derive(Default)]
pub(crate) struct Set {
    tokens: Vec<([u8; 32], Arc<Grant>)>,
    /// The numbers of lines that repeat the token of a line before, each with that line's.
    repeated: Vec<(usize, usize)>,
}

/// The tokens in force.
pub(crate) struct Tokens {
    file: Option<PathBuf>,
    set: RwLock<Arc<Set>>,
}

impl Tokens {
    /// Reads the tokens. Without a file there are no tokens, and every request is refused.
    ///
    /// # Errors
    /// [`BadTokens`]: a start with a bad file would lock all callers out without a message.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self, BadTokens> {
        let set = if let Some(file) = file {
            let set = read(file)?;
            tracing::info!(file = %file.display(), tokens = set.tokens.len(), "tokens read");
            set.warn_of_repeated(file);
            set
        } else {
            tracing::warn!("no --api-tokens-file: every request will be answered with 401");
            Set::default()
        };
        Ok(Self { file: file.map(Path::to_owned), set: RwLock::new(Arc::new(set)) })
    }

    /// The tokens of a text in a file's form that is in no file. `None` where it is not valid.
    pub(crate) fn of(text: &str) -> Option<Self> {
        Some(Self { file: None, set: RwLock::new(Arc::new(parse(text).ok()?)) })
    }

    /// Reads the file again; a bad one leaves the tokens as they were.
    pub(crate) fn reload(&self) {
        let Some(file) = &self.file else { return };
        match read(file) {
            Ok(set) => {
                tracing::info!(file = %file.display(), tokens = set.tokens.len(), "tokens read again");
                set.warn_of_repeated(file);
                *self.set.write() = Arc::new(set);
            }
            Err(error) => {
                let error = super::chain(&error);
                tracing::error!(%error, "the tokens stay as they were");
            }
        }
    }

    /// The grant of the request's token; `None` without a known token.
    pub(crate) fn grant(&self, headers: &HeaderMap) -> Option<Arc<Grant>> {
        let set = Arc::clone(&self.set.read());
        set.find(token(headers)?)
    }
}

impl Set {
    /// Compares with every token, each in constant time: nothing about a near miss shows.
    fn find(&self, token: &[u8]) -> Option<Arc<Grant>> {
        let asked = hash(token);
        let mut found = None;
        for (known, grant) in &self.tokens {
            if bool::from(known.ct_eq(&asked)) {
                found = Some(grant);
            }
        }
        found.cloned()
    }

    /// What may not be meant: a token on several lines has the rights of all, so a line that should narrow them doesn't.
    pub(super) fn doubts(&self) -> Vec<String> {
        let words = |(line, first): &(usize, usize)| {
            format!("line {line} repeats the token of line {first}: it has the rights of both")
        };
        self.repeated.iter().map(words).collect()
    }

    fn warn_of_repeated(&self, file: &Path) {
        for doubt in self.doubts() {
            tracing::warn!(file = %file.display(), doubt, "a token is in the file more than once");
        }
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

/// Reads the lines; a token on several has the rights of all. The error is a line's number and what is wrong with it.
fn parse(text: &str) -> Result<Set, (usize, &'static str)> {
    let mut grants: BTreeMap<[u8; 32], (usize, Grant)> = BTreeMap::new();
    let mut repeated = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(token) = words.next() else { continue };
        let digest = hash(token.as_bytes());
        let (first, grant) = grants.entry(digest).or_insert_with(|| (index + 1, Grant::of(&digest)));
        if *first <= index && repeated.len() < REPEATED_MAX {
            repeated.push((index + 1, *first));
        }
        let mut has_workspace = false;
        for word in words {
            let (workspace, rights) = workspace(word).map_err(|what| (index + 1, what))?;
            grant.add(workspace, rights);
            has_workspace = true;
        }
        if !has_workspace {
            return Err((index + 1, "no workspace"));
        }
    }
    let tokens = grants.into_iter().map(|(digest, (_, grant))| (digest, Arc::new(grant))).collect();
    Ok(Set { tokens, repeated })
}

/// Reads `workspace` or `workspace:right,right`.
fn workspace(word: &str) -> Result<(&str, Rights), &'static str> {
    let (name, rights) = match word.rsplit_once(':') {
        None => (word, Rights::ALL),
        Some((name, words)) => {
            let rights = words.split(',').map(Right::parse).collect::<Option<Vec<_>>>();
            let rights = rights.ok_or("a word after a colon is not a right: expected read, body, operate or write")?;
            (name, rights.into_iter().fold(Rights::default(), |rights, right| rights.with(right.into())))
        }
    };
    if name != EVERY && (!is_name(name) || name.contains('*')) {
        return Err("a word is not a workspace: expected a name of at most 200 characters without slashes, or *");
    }
    Ok((name, rights))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    /// The rights of a token in a workspace, as words.
    fn rights(set: &Set, token: &str, workspace: &str) -> String {
        set.find(token.as_bytes()).map_or_else(|| "unknown".to_owned(), |grant| grant.rights(workspace).to_string())
    }

    const ALL: &str = "read,body,operate,write";

    #[test]
    fn tokens_come_with_their_rights_by_workspace() {
        let set = parse("one acme:read initech:operate,body *:read\ntwo *\nthree\tacme\none initech:write").unwrap();
        assert_eq!(rights(&set, "one", "acme"), "read");
        assert_eq!(rights(&set, "one", "initech"), ALL);
        assert_eq!(rights(&set, "one", "other"), "read");
        assert_eq!(set.doubts(), ["line 4 repeats the token of line 1: it has the rights of both"]);
        assert_eq!(rights(&set, "two", "anything"), ALL);
        assert_eq!((rights(&set, "three", "acme").as_str(), rights(&set, "three", "acmes").as_str()), (ALL, ""));
        for unknown in ["", "on", "one ", "onee", "acme", "#"] {
            assert_eq!(rights(&set, unknown, "acme"), "unknown", "{unknown}");
        }
    }

    #[test]
    fn comments_end_a_line_anywhere_and_marks_of_windows_do_not_belong_to_a_token() {
        let file = "\u{feff}t1 *\r\nt2 acme # was * before\r\n# t3 *\r\n\r\nt4\tacme:read  initech:operate,body\r\nt5 acme# beta";
        let set = parse(file).unwrap();
        assert_eq!(rights(&set, "t1", "any"), ALL);
        assert_eq!((rights(&set, "t2", "acme").as_str(), rights(&set, "t2", "was").as_str()), (ALL, ""));
        assert_eq!(rights(&set, "t3", "any"), "unknown");
        assert_eq!(rights(&set, "t4", "initech"), "body,operate");
        assert_eq!((rights(&set, "t5", "acme").as_str(), rights(&set, "t5", "beta").as_str()), (ALL, ""));
    }

    #[test]
    fn a_line_that_is_not_valid_refuses_the_file_with_its_number() {
        for (line, part) in [
            ("secret", "no workspace"),
            ("secret # acme", "no workspace"),
            ("secret acme:", "not a right"),
            ("secret acme:reed", "not a right"),
            ("secret acme:read,", "not a right"),
            ("secret :read", "not a workspace"),
            ("secret a/b", "not a workspace"),
            ("secret acme*", "not a workspace"),
            ("secret **", "not a workspace"),
        ] {
            let (number, what) = parse(&format!("a *\n\n{line}\nb *")).err().expect(line);
            assert_eq!(number, 3, "{line}");
            assert!(what.contains(part), "{line}: {what}");
        }
    }

    #[test]
    fn a_token_has_a_name_that_does_not_disclose_it() {
        let name = parse("hunter2 *").unwrap().find(b"hunter2").unwrap().name().to_owned();
        assert_eq!((name.len(), name.contains("hunter2")), ("token-".len() + 8, false));
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
    fn without_a_file_no_caller_may_do_anything() {
        assert!(Tokens::open(None).unwrap().grant(&headers("authorization", "Bearer x")).is_none());
    }
}
