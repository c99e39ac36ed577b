//! From arguments and environment to texts by option: which subcommand, which options, given where.
//!
//! Says what is unknown, misplaced, missing or given twice. What a value means is not looked at here.

use std::ffi::OsString;

use super::command::{HelpTopic, Subcommand};
use super::given::{Given, GivenOptions, Origin};
use super::mistake::{Mistake, closest, shown};
use super::options;
use super::row::{PREFIX, Row, Shape};

/// What the words of the command line ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Run(Subcommand),
    Help(HelpTopic),
    /// No argument at all.
    Nothing,
    Version,
    /// Not understood; a mistake says so.
    Unknown,
}

/// The arguments, taken apart.
#[derive(Default)]
pub(super) struct CommandLine {
    words: Vec<Word>,
    options: Vec<Written>,
    help: bool,
    version: bool,
    has_arguments: bool,
}

/// An argument that is not an option.
struct Word {
    text: String,
    /// It follows an option whose value may be a secret, so it may be a part of that value.
    secret: bool,
}

/// An option as it was written.
struct Written {
    name: String,
    value: Option<String>,
}

/// Takes the arguments apart.
pub(super) fn command_line(args: impl Iterator<Item = OsString>, mistakes: &mut Vec<Mistake>) -> CommandLine {
    let mut line = CommandLine::default();
    let mut texts = Vec::new();
    for arg in args {
        line.has_arguments = true;
        match arg.into_string() {
            Ok(text) => texts.push(text),
            Err(raw) => {
                let lossy = raw.to_string_lossy();
                let name = lossy.split('=').next().filter(|name| name.starts_with("--")).unwrap_or("an argument");
                mistakes.push(Mistake::secret(name, "expected UTF-8 text"));
            }
        }
    }
    let mut secret = false;
    let mut rest = texts.into_iter().peekable();
    while let Some(text) = rest.next() {
        match text.as_str() {
            "--help" | "-h" => line.help = true,
            "--version" | "-V" => line.version = true,
            "-" => line.words.push(Word { text, secret }),
            _ if text.starts_with('-') => {
                let (written, takes_next) = line.written(&text, rest.peek().map(String::as_str));
                secret |= options::find_any(&written.name).is_none_or(|row| row.secret);
                line.options.push(if takes_next { Written { value: rest.next(), ..written } } else { written });
            }
            _ => line.words.push(Word { text, secret }),
        }
    }
    line
}

impl CommandLine {
    /// The option in `text`, and whether the next argument is its value.
    fn written(&self, text: &str, next: Option<&str>) -> (Written, bool) {
        let option = text.strip_prefix("--").unwrap_or(text);
        if let Some((name, value)) = option.split_once('=') {
            return (Written { name: name.to_owned(), value: Some(value.to_owned()) }, false);
        }
        let has_value = next.is_some_and(|next| !next.starts_with("--"));
        let takes_next = match options::find_any(option).map(|row| row.shape) {
            Some(Shape::Flag) => false,
            Some(Shape::One | Shape::Many { .. }) => has_value,
            // Most options take a value: one mistake is reported, not two. But a subcommand is never swallowed.
            None => has_value && !next.is_some_and(|next| self.may_continue_with(next)),
        };
        (Written { name: option.to_owned(), value: None }, takes_next)
    }

    /// Whether `word` would be a right next word of the subcommand.
    fn may_continue_with(&self, word: &str) -> bool {
        let mut words = self.words.iter().map(|word| word.text.as_str()).skip_while(|word| *word == "help");
        match (words.next(), words.next()) {
            (None, _) => first_words().contains(&word),
            (Some(first), None) => family(first).any(|member| member.second_word() == Some(word)),
            (Some(_), Some(_)) => false,
        }
    }

    /// Which subcommand the words name, or which help.
    pub(super) fn asked(&self, mistakes: &mut Vec<Mistake>) -> Asked {
        if !self.has_arguments {
            return Asked::Nothing;
        }
        let is_help_word = self.words.first().is_some_and(|word| word.text == "help");
        let words = self.words.get(usize::from(is_help_word)..).unwrap_or_default();
        let wants_help = is_help_word || self.help;
        match topic(words) {
            Ok(HelpTopic::Program) if self.version && !wants_help => Asked::Version,
            Ok(topic) if wants_help => Asked::Help(topic),
            Ok(HelpTopic::Subcommand(_)) if self.version => Asked::Version,
            Ok(HelpTopic::Subcommand(subcommand)) => {
                let used = used_words(subcommand) + usize::from(subcommand.argument().is_some());
                mistakes.extend(words.iter().skip(used).map(|word| word.stray(subcommand)));
                Asked::Run(subcommand)
            }
            Ok(HelpTopic::Family(name)) => {
                mistakes
                    .push(Mistake::new(&format!("subcommand {name}"), &format!("expected one of: {}", members(name))));
                Asked::Unknown
            }
            Ok(HelpTopic::Program) => {
                mistakes.push(Mistake::new("subcommand", &format!("expected one of: {}", first_words().join(", "))));
                Asked::Unknown
            }
            Err(mistake) => {
                mistakes.push(mistake);
                Asked::Unknown
            }
        }
    }

    /// The bare argument of `asked`, as the option whose value it is.
    fn argument(&self, asked: Asked) -> Option<Written> {
        let Asked::Run(subcommand) = asked else { return None };
        let word = self.words.get(used_words(subcommand))?;
        Some(Written { name: subcommand.argument()?.to_owned(), value: Some(word.text.clone()) })
    }

    /// The options that `asked` takes; the others are mistakes.
    pub(super) fn into_given(self, asked: Asked, mistakes: &mut Vec<Mistake>) -> GivenOptions {
        let mut given = GivenOptions::new();
        for Written { name, value } in self.argument(asked).into_iter().chain(self.options) {
            if let Err(mistake) = placed(&name, asked).and_then(|row| give(&mut given, row, value)) {
                mistakes.push(mistake);
            }
        }
        given
    }
}

/// Words of the command line that name the subcommand.
fn used_words(subcommand: Subcommand) -> usize {
    1 + usize::from(subcommand.second_word().is_some())
}

/// The row of an option as the subcommand takes it.
fn placed(name: &str, asked: Asked) -> Result<&'static Row, Mistake> {
    let subcommand = match asked {
        Asked::Run(subcommand) => Some(subcommand),
        Asked::Help(_) | Asked::Nothing | Asked::Version | Asked::Unknown => None,
    };
    let flag = if name.starts_with('-') { name.to_owned() } else { format!("--{name}") };
    match (options::find_any(name), subcommand) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(subcommand)) => options::find(name, subcommand).ok_or_else(|| {
            let text = format!("no option of `{}`; accepted by {}", subcommand.words(), users(name));
            Mistake::new(&flag, &text)
        }),
        (None, _) => {
            let known: Vec<_> = subcommand.map_or_else(|| options::all().collect(), |user| options::of(user).collect());
            let suggestion = closest(name.trim_start_matches('-'), known.iter().map(|row| row.name));
            let hint = suggestion.map(|name| format!("did you mean `--{name}`? ")).unwrap_or_default();
            let help = subcommand.map(|subcommand| format!(" {}", subcommand.words())).unwrap_or_default();
            Err(Mistake::new(
                &shown(&flag).replace('`', ""),
                &format!("unknown option; {hint}`hookstream{help} --help` lists what is accepted"),
            ))
        }
    }
}

fn users(name: &str) -> String {
    options::users(name).map(|user| format!("`{}`", user.words())).collect::<Vec<_>>().join(", ")
}

fn give(given: &mut GivenOptions, row: &'static Row, value: Option<String>) -> Result<(), Mistake> {
    let text = match (value, row.shape) {
        (Some(text), _) => text,
        (None, Shape::Flag) => "true".to_owned(),
        (None, Shape::One | Shape::Many { .. }) => {
            let default = row.default.map(|default| format!(", by default {default}")).unwrap_or_default();
            let text = format!("needs a value, {}: {}{default}", row.placeholder, row.about);
            return Err(Mistake::new(&row.flag_name(), &text));
        }
    };
    let entry = given.entry(row.name).or_insert_with(|| Given { texts: Vec::new(), origin: Origin::Argument });
    match row.shape {
        Shape::Many { argument, .. } => entry.texts.extend(separated(&text, argument)),
        Shape::One | Shape::Flag if entry.texts.is_empty() => entry.texts.push(text),
        Shape::One | Shape::Flag => {
            return Err(Mistake::new(&row.flag_name(), "given more than once; expected one value"));
        }
    }
    Ok(())
}

/// Adds what the environment gives and the arguments do not. Returns the variables that name no option.
pub(super) fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    subcommand: Subcommand,
    given: &mut GivenOptions,
    mistakes: &mut Vec<Mistake>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (variable, value) in variables {
        let Some(name) = variable.to_str().and_then(option_of) else {
            continue;
        };
        if options::find_any(&name).is_none() {
            warnings.push(unknown_variable(&format!("{PREFIX}{}", upper(&name)), &name));
            continue;
        }
        // A variable may be meant for another subcommand: one environment often serves several.
        let Some(row) = options::find(&name, subcommand).filter(|row| !given.contains_key(row.name)) else {
            continue;
        };
        let Ok(text) = value.into_string() else {
            mistakes.push(Mistake::secret(&row.variable(), "expected UTF-8 text"));
            continue;
        };
        let texts = match row.shape {
            Shape::Many { environment, .. } => separated(&text, environment).collect(),
            Shape::One | Shape::Flag => vec![text],
        };
        given.insert(row.name, Given { texts, origin: Origin::Environment });
    }
    warnings.sort_unstable();
    warnings
}

/// The name of the option that a variable would be: only upper case counts.
fn option_of(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(PREFIX)?;
    let is_upper = !rest.bytes().any(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_upper.then(|| rest.to_ascii_lowercase().replace('_', "-"))
}

fn upper(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

fn unknown_variable(variable: &str, name: &str) -> String {
    let hint = closest(name, options::all().map(|row| row.name))
        .map(|name| format!("; did you mean {PREFIX}{}?", upper(name)))
        .unwrap_or_default();
    format!("the environment variable {} is no option{hint}", shown(variable).replace('`', ""))
}

/// The parts of a list. Blank parts are left out. Space before a part is cut off, and with commas the space after it too.
fn separated<'a>(text: &'a str, separators: &'a [char]) -> impl Iterator<Item = String> + 'a {
    let keep_blank = separators.is_empty();
    text.split(separators).filter(move |part| keep_blank || !part.trim().is_empty()).map(move |part| {
        if separators.contains(&',') {
            part.trim().to_owned()
        } else if separators.is_empty() {
            part.to_owned()
        } else {
            part.trim_start().trim_end_matches('\r').to_owned()
        }
    })
}

impl Word {
    fn mistake(&self, subject: &str, accepted: &str) -> Mistake {
        if self.secret { Mistake::secret(subject, accepted) } else { Mistake::value(subject, &self.text, accepted) }
    }

    fn stray(&self, subcommand: Subcommand) -> Mistake {
        let accepted = format!("expected only options, see `hookstream {} --help`", subcommand.words());
        self.mistake("unexpected argument", &accepted)
    }
}

/// What the first words name.
fn topic(words: &[Word]) -> Result<HelpTopic, Mistake> {
    let Some(first) = words.first() else {
        return Ok(HelpTopic::Program);
    };
    let second = words.get(1);
    let Some(member) = family(&first.text).next() else {
        let member = Subcommand::ALL.into_iter().find(|member| member.second_word() == Some(&first.text));
        let meant = member.map(Subcommand::words).or_else(|| closest(&first.text, first_words().into_iter()));
        let hint = meant.map(|words| format!("did you mean `{words}`? "));
        let accepted = format!("{}expected one of: {}", hint.unwrap_or_default(), first_words().join(", "));
        return Err(first.mistake("unknown subcommand", &accepted));
    };
    match (member.second_word(), second) {
        (None, _) => Ok(HelpTopic::Subcommand(member)),
        (Some(_), None) => Ok(HelpTopic::Family(member.first_word())),
        (Some(_), Some(second)) => family(&first.text)
            .find(|member| member.second_word() == Some(&second.text))
            .map(HelpTopic::Subcommand)
            .ok_or_else(|| {
                let accepted = format!("expected one of: {}", members(&first.text));
                second.mistake(&format!("unknown subcommand {}", first.text), &accepted)
            }),
    }
}

/// The subcommands that begin with this word.
fn family(first: &str) -> impl Iterator<Item = Subcommand> {
    Subcommand::ALL.into_iter().filter(move |subcommand| subcommand.first_word() == first)
}

fn members(first: &str) -> String {
    family(first).filter_map(Subcommand::second_word).collect::<Vec<_>>().join(", ")
}

fn first_words() -> Vec<&'static str> {
    let mut words: Vec<_> = Subcommand::ALL.iter().map(|subcommand| subcommand.first_word()).collect();
    words.dedup();
    words.push("help");
    words
}
