//! One Rust file as the rules see it: its path, its text, its tokens. No rule lives here.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A file.
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

/// A token without its place. Groups are flattened: their brackets are punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Mark(char),
    /// A string literal's contents as written, without quotes.
    Text(String),
    Other,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        Self { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// The room of a file in `src`: its first folder, or the file's own name at the top.
    pub(crate) fn room(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// Where these words stand one after another, `::` and `!` and brackets included as single characters.
    pub(crate) fn positions(&self, words: &[&str]) -> impl Iterator<Item = usize> {
        let wanted: Vec<Token> = words.iter().map(|word| token(word)).collect();
        self.tokens.windows(wanted.len()).enumerate().filter(move |(_, window)| *window == wanted).map(|(at, _)| at)
    }

    pub(crate) fn has(&self, words: &[&str]) -> bool {
        self.positions(words).next().is_some()
    }
}

pub(crate) fn token(word: &str) -> Token {
    match word.chars().next() {
        Some(first) if !first.is_alphanumeric() && first != '_' => Token::Mark(first),
        _ => Token::Word(word.to_owned()),
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ('(', ')'),
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::None => (' ', ' '),
                };
                tokens.push(Token::Mark(open));
                flatten(group.stream(), tokens);
                tokens.push(Token::Mark(close));
            }
            TokenTree::Ident(word) => tokens.push(Token::Word(word.to_string())),
            TokenTree::Punct(mark) => tokens.push(Token::Mark(mark.as_char())),
            TokenTree::Literal(literal) => {
                let written = literal.to_string();
                let text = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                tokens.push(text.map_or(Token::Other, |text| Token::Text(text.to_owned())));
            }
        }
    }
}
