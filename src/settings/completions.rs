//! Completion scripts for shells, made from the table of options: what they offer is what is accepted.

use std::fmt::Write as _;

use super::command::{Shell, Subcommand};
use super::options;
use super::row::{Row, Shape};

/// The script of a shell, with a line feed at its end.
pub(crate) fn render(shell: Shell) -> String {
    match shell {
        Shell::Bash => bash(),
        Shell::Zsh => zsh(),
        Shell::Fish => fish(),
    }
}

/// The first words, each once, and what the one-word subcommand or the family does.
fn first_words() -> Vec<(&'static str, &'static str)> {
    let mut words: Vec<(&str, &str)> = Vec::new();
    for subcommand in Subcommand::ALL {
        let about = match subcommand.second_word() {
            None => subcommand.about(),
            Some(_) => "a family of subcommands",
        };
        if words.last().is_none_or(|(word, _)| *word != subcommand.first_word()) {
            words.push((subcommand.first_word(), about));
        }
    }
    words.push(("help", "say what there is, or what a subcommand takes"));
    words
}

fn second_words(first: &str) -> Vec<(&'static str, &'static str)> {
    let members = Subcommand::ALL.into_iter().filter(|subcommand| subcommand.first_word() == first);
    members.filter_map(|member| Some((member.second_word()?, member.about()))).collect()
}

fn families() -> Vec<&'static str> {
    first_words().into_iter().map(|(word, _)| word).filter(|word| !second_words(word).is_empty()).collect()
}

/// Appends a line to a String, which always succeeds.
fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    if text.write_fmt(args).is_ok() {
        text.push('\n');
    }
}

fn joined(words: &[(&str, &str)]) -> String {
    words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut text = String::new();
    line(
        &mut text,
        format_args!("# Completion of hookstream for bash. Load it with: source <(hookstream completions bash)"),
    );
    line(&mut text, format_args!("_hookstream() {{"));
    line(
        &mut text,
        format_args!(
            "    local current=\"${{COMP_WORDS[COMP_CWORD]}}\" previous=\"${{COMP_WORDS[COMP_CWORD-1]}}\" words=() i"
        ),
    );
    line(&mut text, format_args!("    for ((i = 1; i < COMP_CWORD; i++)); do"));
    line(&mut text, format_args!("        [[ ${{COMP_WORDS[i]}} == -* ]] && break"));
    line(&mut text, format_args!("        words+=(\"${{COMP_WORDS[i]}}\")"));
    line(&mut text, format_args!("    done"));
    line(&mut text, format_args!("    [[ ${{words[0]:-}} == help ]] && words=(\"${{words[@]:1}}\")"));
    let files = options::distinct().into_iter().filter(|(row, _)| row.placeholder == "FILE");
    let files: Vec<String> = files.map(|(row, _)| row.flag_name()).collect();
    line(&mut text, format_args!("    case \"$previous\" in"));
    line(&mut text, format_args!("        {}) COMPREPLY=($(compgen -f -- \"$current\")); return ;;", files.join("|")));
    line(&mut text, format_args!("    esac"));
    line(&mut text, format_args!("    local offered=\"\""));
    line(&mut text, format_args!("    case \"${{words[*]:0:2}}\" in"));
    line(&mut text, format_args!("        \"\") offered=\"{} --help --version\" ;;", joined(&first_words())));
    for family in families() {
        line(&mut text, format_args!("        {family}) offered=\"{}\" ;;", joined(&second_words(family))));
    }
    for subcommand in Subcommand::ALL {
        let mut flags: Vec<String> = options::of(subcommand).map(Row::flag_name).collect();
        flags.push("--help".to_owned());
        let shells = if subcommand == Subcommand::Completions { "bash zsh fish " } else { "" };
        let words = subcommand.words();
        let pattern =
            if subcommand.second_word().is_some() { format!("\"{words}\"") } else { format!("{words}|\"{words} \"*") };
        line(&mut text, format_args!("        {pattern}) offered=\"{shells}{}\" ;;", flags.join(" ")));
    }
    line(&mut text, format_args!("    esac"));
    line(&mut text, format_args!("    COMPREPLY=($(compgen -W \"$offered\" -- \"$current\"))"));
    line(&mut text, format_args!("}}"));
    line(&mut text, format_args!("complete -F _hookstream hookstream"));
    text
}

/// Text for single quotes, without the characters that mean something to `_arguments` and `_describe`.
fn zsh_text(text: &str) -> String {
    text.replace('\'', "’").replace('[', "(").replace(']', ")").replace(':', "\\:")
}

fn zsh_list(words: &[(&str, &str)]) -> String {
    words.iter().map(|(word, about)| format!("'{word}:{}'", zsh_text(about))).collect::<Vec<_>>().join(" ")
}

fn zsh() -> String {
    let mut text = String::new();
    line(&mut text, format_args!("#compdef hookstream"));
    line(&mut text, format_args!("# Completion of hookstream for zsh. Put it into a folder of $fpath as _hookstream."));
    line(&mut text, format_args!("_hookstream() {{"));
    line(&mut text, format_args!("    local -a found"));
    line(&mut text, format_args!("    if (( CURRENT == 2 )); then"));
    line(&mut text, format_args!("        found=({})", zsh_list(&first_words())));
    line(&mut text, format_args!("        _describe subcommand found; return"));
    line(&mut text, format_args!("    fi"));
    line(&mut text, format_args!("    if (( CURRENT == 3 )); then"));
    line(&mut text, format_args!("        case $words[2] in"));
    for family in families() {
        let list = zsh_list(&second_words(family));
        line(&mut text, format_args!("            {family}) found=({list}); _describe subcommand found; return ;;"));
    }
    line(&mut text, format_args!("            completions) found=(bash zsh fish); _describe shell found; return ;;"));
    line(&mut text, format_args!("        esac"));
    line(&mut text, format_args!("    fi"));
    line(&mut text, format_args!("    case \"$words[2] $words[3]\" in"));
    for subcommand in Subcommand::ALL {
        let words = subcommand.words();
        let pattern =
            if subcommand.second_word().is_some() { format!("\"{words}\"") } else { format!("\"{words} \"*") };
        let arguments: Vec<String> = options::of(subcommand)
            .map(|row| {
                let (flag, about) = (row.flag_name(), zsh_text(row.about));
                let action = if row.placeholder == "FILE" { "_files" } else { " " };
                let repeat = if matches!(row.shape, Shape::Many { .. }) { "*" } else { "" };
                match row.shape {
                    Shape::Flag => format!("'{flag}[{about}]'"),
                    _ => format!("'{repeat}{flag}=[{about}]:{}:{action}'", zsh_text(row.placeholder)),
                }
            })
            .collect();
        // `_arguments` takes the first word for the command, and offers no option behind words that the table does not describe.
        let before = words.split(' ').count();
        line(
            &mut text,
            format_args!(
                "        {pattern}) shift {before} words; (( CURRENT -= {before} )); _arguments {} '--help[say what it takes]' '*: :' ;;",
                arguments.join(" ")
            ),
        );
    }
    line(&mut text, format_args!("    esac"));
    line(&mut text, format_args!("}}"));
    line(&mut text, format_args!("_hookstream \"$@\""));
    text
}

fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut text = String::new();
    line(
        &mut text,
        format_args!("# Completion of hookstream for fish. Load it with: hookstream completions fish | source"),
    );
    line(&mut text, format_args!("complete -c hookstream -f"));
    for (word, about) in first_words() {
        let about = quoted(about);
        line(&mut text, format_args!("complete -c hookstream -n __fish_use_subcommand -a {word} -d '{about}'"));
    }
    for family in families() {
        let members = joined(&second_words(family));
        for (word, about) in second_words(family) {
            let about = quoted(about);
            line(
                &mut text,
                format_args!(
                    "complete -c hookstream -n '__fish_seen_subcommand_from {family}; and not __fish_seen_subcommand_from {members}' -a {word} -d '{about}'"
                ),
            );
        }
    }
    line(
        &mut text,
        format_args!("complete -c hookstream -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish'"),
    );
    for subcommand in Subcommand::ALL {
        let seen: Vec<String> =
            subcommand.words().split(' ').map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        let seen = seen.join("; and ");
        for row in options::of(subcommand) {
            let value = match (row.shape, row.placeholder) {
                (Shape::Flag, _) => "",
                (_, "FILE") => " -r -F",
                _ => " -x",
            };
            let (name, about) = (row.name, quoted(row.about));
            line(&mut text, format_args!("complete -c hookstream -n '{seen}' -l {name}{value} -d '{about}'"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_offers_every_subcommand_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = render(shell);
            for subcommand in Subcommand::ALL {
                assert!(
                    subcommand.words().split(' ').all(|word| text.contains(word)),
                    "{shell:?} {}",
                    subcommand.words()
                );
            }
            for row in options::all() {
                assert!(text.contains(row.name), "{shell:?} --{}", row.name);
            }
        }
    }

    #[test]
    fn no_text_ends_its_quotes() {
        for shell in [Shell::Zsh, Shell::Fish] {
            for line in render(shell).lines().filter(|line| !line.starts_with('#')) {
                let quotes = line.replace("\\'", "").matches('\'').count();
                assert_eq!(quotes % 2, 0, "{shell:?}: {line}");
            }
        }
    }
}
