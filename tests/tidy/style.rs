//! The form of a file: its opening, its length, its errors, its log texts, its lints and its words.

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};

use crate::source::{Source, Token};

/// CONTRIBUTING.md's bound, before the tests.
const LINES_MAX: usize = 500;

/// Functions and fields whose error is a `String`: a caller cannot tell its kinds apart.
pub(crate) fn texts_as_errors(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let found = source.positions(&["Result", "<"]).filter(|at| {
        let (mut depth, mut since_comma) = (1_i32, Vec::new());
        for token in source.tokens.iter().skip(at + 2) {
            depth += match token {
                Token::Mark('<' | '(' | '[') => 1,
                Token::Mark('>' | ')' | ']') => -1,
                _ => 0,
            };
            match token {
                _ if depth <= 0 => break,
                Token::Mark(',') if depth == 1 => since_comma.clear(),
                token => since_comma.push(token.clone()),
            }
        }
        since_comma == [Token::Word("String".to_owned())]
    });
    found.map(|_| "has an error that is a String".to_owned()).collect()
}

pub(crate) fn no_module_docs(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") { Vec::new() } else { vec!["does not open with //!".to_owned()] }
}

pub(crate) fn too_long(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    let lines = source.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]\nmod")).collect::<Vec<_>>();
    let tests = lines.windows(2).position(|two| two == ["#[cfg(test)]", "mod tests {"]).unwrap_or(lines.len());
    if tests > LINES_MAX {
        vec![format!("has {tests} lines before its tests, at most {LINES_MAX}")]
    } else {
        Vec::new()
    }
}

pub(crate) fn unbounded_channels(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    for words in
        [&["unbounded_channel"][..], &["unbounded"], &["std", ":", ":", "sync", ":", ":", "mpsc", ":", ":", "channel"]]
    {
        if source.has(words) {
            violations.push(format!("makes an unbounded channel ({})", words.concat()));
        }
    }
    violations
}

pub(crate) fn lints_without_reason(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    for (at, _) in source.tokens.iter().enumerate() {
        let rest = &source.tokens[at..];
        let ([Token::Mark('#'), Token::Mark('!'), Token::Mark('['), rest @ ..]
        | [Token::Mark('#'), Token::Mark('['), rest @ ..]) = rest
        else {
            continue;
        };
        match rest {
            [Token::Word(word), Token::Mark('('), ..] if word == "allow" => {
                violations.push("silences a lint with allow instead of expect".to_owned());
            }
            [Token::Word(word), Token::Mark('('), arguments @ ..] if word == "expect" => {
                let attribute = arguments.iter().take_while(|token| **token != Token::Mark(']'));
                if !attribute.clone().any(|token| *token == Token::Word("reason".to_owned())) {
                    violations.push("expects a lint without a reason".to_owned());
                }
            }
            _ => {}
        }
    }
    violations
}

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// Texts of `tracing` macros that start with a capital, end with a full stop or hold data.
pub(crate) fn bad_log_texts(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for level in LEVELS {
        for at in source.positions(&["tracing", ":", ":", level, "!", "("]) {
            match message(&source.tokens[at + 6..]) {
                Some(text) => violations.extend(fault(text).map(|fault| format!("logs {text:?}, which {fault}"))),
                None => violations.push(format!("logs a {level} without a fixed text")),
            }
        }
    }
    violations
}

/// The last string literal that is an argument of its own, of a macro whose opening bracket was read already.
fn message(tokens: &[Token]) -> Option<&str> {
    let (mut depth, mut begins, mut text) = (0, true, None);
    for token in tokens {
        match token {
            Token::Mark(')' | '}' | ']') if depth == 0 => break,
            Token::Mark('(' | '{' | '[') => depth += 1,
            Token::Mark(')' | '}' | ']') => depth -= 1,
            Token::Text(literal) if depth == 0 && begins => text = Some(literal.as_str()),
            _ => {}
        }
        begins = depth == 0 && *token == Token::Mark(',');
    }
    text
}

fn fault(text: &str) -> Option<&'static str> {
    let first = text.split(' ').next().unwrap_or_default();
    let capitals = first.chars().filter(|char| char.is_uppercase()).count();
    // A name such as SIGHUP or TLS stays as it is.
    if first.chars().next().is_some_and(char::is_uppercase) && capitals < 2 {
        Some("starts with a capital")
    } else if text.ends_with('.') {
        Some("ends with a full stop")
    } else if text.contains('{') {
        Some("holds data: put it into a field")
    } else {
        None
    }
}

/// Errors whose text prints a field that is their source: whoever prints the chain prints it again.
pub(crate) fn causes_printed_twice(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
    let mut causes = Causes(Vec::new());
    causes.visit_file(&file);
    causes.0
}

struct Causes(Vec<String>);

impl<'ast> Visit<'ast> for Causes {
    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.check(&variant.ident, &variant.attrs, &variant.fields);
        visit::visit_variant(self, variant);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check(&item.ident, &item.attrs, &item.fields);
        visit::visit_item_struct(self, item);
    }
}

impl Causes {
    fn check(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], fields: &syn::Fields) {
        let Some(text) = attributes.iter().find_map(error_text) else { return };
        for (index, field) in fields.iter().enumerate() {
            let named = field.ident.as_ref().map(ToString::to_string);
            let marked = ["source", "from"].iter().any(|mark| field.attrs.iter().any(|at| at.path().is_ident(mark)));
            if !marked && named.as_deref() != Some("source") {
                continue;
            }
            let shown = named.unwrap_or_else(|| index.to_string());
            if text.contains(&format!("{{{shown}}}")) || text.contains(&format!("{{{shown}:")) {
                self.0.push(format!("{name} prints {{{shown}}}, which is also its source"));
            }
        }
    }
}

/// The format string of `#[error("…")]`.
fn error_text(attribute: &syn::Attribute) -> Option<String> {
    if !attribute.path().is_ident("error") {
        return None;
    }
    let parser = Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
    let arguments = attribute.parse_args_with(parser).ok()?;
    match arguments.first()? {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// Words that people whose first language is another one stumble over, or that hide the subject.
const AVOID: [&str; 49] = [
    "to blame",
    "meddle",
    "meddled",
    "comes to nothing",
    "come to nothing",
    "came to nothing",
    "in their midst",
    "can not",
    "whoever",
    "whomever",
    "lest",
    "manieth",
    "hasten",
    "unasked",
    "in whichever",
    "anew",
    "somebody",
    "someone",
    "nobody",
    "no one",
    "anyone",
    "everybody",
    "everyone",
    "whence",
    "thereof",
    "albeit",
    "for want of",
    "stands for",
    "stand for",
    "the like",
    "is none of",
    "in vain",
    "came of it",
    "told",
    "swallow",
    "swallows",
    "mend",
    "mends",
    "mended",
    "wishes",
    "comes round",
    "come round",
    "came round",
    "all the same",
    "goes by the",
    "go by the",
    "by turns",
    "reckon",
    "reckons",
];

pub(crate) fn words_to_avoid(source: &Source) -> Vec<String> {
    if source.path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    avoided_in(&source.text).collect()
}

/// The words to avoid in a text, with their lines. Names in snake case are read as words, and a phrase may go on in the next line.
/// A quoted word alone is a name of the outside, such as a label's value.
pub(crate) fn avoided_in(text: &str) -> impl Iterator<Item = String> {
    let (words, lines) = words_of(text);
    let mut found = Vec::new();
    for phrase in AVOID {
        for (at, _) in words.match_indices(&format!(" {phrase} ")) {
            let number = lines[at + 1];
            let line = text.lines().nth(number - 1).unwrap_or_default().trim();
            found.push((number, format!("line {number} says {phrase:?}: {line}")));
        }
    }
    found.sort();
    found.into_iter().map(|(_, violation)| violation)
}

/// A text in small letters: each word between spaces, a `|` for each mark, comment signs left out. With the line of each byte.
fn words_of(text: &str) -> (String, Vec<usize>) {
    let (mut words, mut lines) = (" ".to_owned(), vec![1]);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start().trim_start_matches(['/', '!', '#']);
        let mut rest = line.chars();
        while let Some(char) = rest.next() {
            let quoted = rest.as_str().split_once(char).map_or("", |(quoted, _)| quoted);
            match char {
                '"' | '`' if !quoted.is_empty() && quoted.chars().all(|char| char.is_ascii_lowercase()) => {
                    // The word and the mark after it.
                    rest.nth(quoted.len());
                    words.push_str(" | ");
                }
                char if char.is_ascii_alphabetic() || char == '\'' => words.push(char.to_ascii_lowercase()),
                '_' | ' ' | '\t' if words.ends_with(' ') => {}
                '_' | ' ' | '\t' => words.push(' '),
                _ => words.push_str(" | "),
            }
            lines.resize(words.len(), number);
        }
        if !words.ends_with(' ') {
            words.push(' ');
            lines.push(number);
        }
    }
    (words, lines)
}

/// Parameters that are tuples: their parts have no names where the function is called.
pub(crate) fn tuples_as_parameters(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
    let mut tuples = Tuples(Vec::new());
    tuples.visit_file(&file);
    tuples.0
}

struct Tuples(Vec<String>);

impl<'ast> Visit<'ast> for Tuples {
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        for input in &signature.inputs {
            let syn::FnArg::Typed(parameter) = input else { continue };
            let is_tuple = match &*parameter.ty {
                syn::Type::Reference(to) => matches!(&*to.elem, syn::Type::Tuple(tuple) if tuple.elems.len() > 1),
                syn::Type::Tuple(tuple) => tuple.elems.len() > 1,
                _ => false,
            };
            if is_tuple {
                self.0.push(format!("{} takes a tuple", signature.ident));
            }
        }
    }
}
