//! What makes a test fail by chance: bounds in seconds that a busy machine breaks, ports that another process may take, and log lines
//! that are looked for once. `tests/support` has what a test uses instead.

use crate::source::{Source, Token};

/// Asserted bounds on a time. [`PATIENCES`] only say that nothing hangs.
pub(crate) fn bounds_without_the_load(source: &Source) -> Vec<String> {
    let has_bound = |arguments: &[Token]| {
        has(arguments, &["elapsed", "(", ")", "<"]) && !PATIENCES.iter().any(|patience| has(arguments, &[patience]))
    };
    violations(source, has_bound, "asserts a time by the clock alone: use Load::assert_within")
}

const PATIENCES: [&str; 2] = ["PATIENCE", "LONG"];

/// Asserted log lines that may come a moment later. That a line is not there may be asserted.
pub(crate) fn log_lines_looked_for_once(source: &Source) -> Vec<String> {
    let line = ["lines", "(", ")", ".", "all", "(", ")", ".", "iter", "(", ")", ".", "any"];
    let is_positive = |arguments: &[Token]| has(arguments, &line) && arguments.first() != Some(&Token::Mark('!'));
    violations(source, is_positive, "looks for a log line once: use Worker::logged or Lines::find")
}

/// Ports that are free for others again as soon as they are chosen.
pub(crate) fn ports_that_are_not_held(source: &Source) -> Vec<String> {
    if !is_test(source) {
        return Vec::new();
    }
    let bound = source.positions(&["TcpListener", ":", ":", "bind"]);
    let is_dropped = |at: &usize| {
        let statement = source.tokens[*at..].split(|token| *token == Token::Mark(';')).next().unwrap_or_default();
        statement.contains(&Token::Word("local_addr".to_owned()))
    };
    bound.filter(is_dropped).map(|_| "chooses a port that it does not hold: use Port::hold".to_owned()).collect()
}

fn is_test(source: &Source) -> bool {
    source.path.starts_with("tests/") && !source.path.starts_with("tests/tidy/")
}

fn violations(source: &Source, is_one: impl Fn(&[Token]) -> bool, what: &str) -> Vec<String> {
    if !is_test(source) {
        return Vec::new();
    }
    let asserts = source.positions(&["assert", "!", "("]);
    asserts.filter(|at| is_one(arguments(&source.tokens[at + 3..]))).map(|_| what.to_owned()).collect()
}

/// The tokens up to the bracket that ends a macro, whose opening bracket was read already.
fn arguments(tokens: &[Token]) -> &[Token] {
    let mut depth = 1_i32;
    let end = tokens.iter().position(|token| {
        depth += match token {
            Token::Mark('(' | '[' | '{') => 1,
            Token::Mark(')' | ']' | '}') => -1,
            _ => 0,
        };
        depth == 0
    });
    &tokens[..end.unwrap_or(tokens.len())]
}

fn has(tokens: &[Token], words: &[&str]) -> bool {
    let wanted: Vec<Token> = words.iter().map(|word| crate::source::token(word)).collect();
    tokens.windows(wanted.len()).any(|window| window == wanted)
}
