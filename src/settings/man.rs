//! The manual page, made from the table of options.

use std::fmt::Write as _;

use super::command::Subcommand;
use super::options;
use super::row::{Row, Shape};

/// The page in the language of `man`, with a line feed at its end.
pub(crate) fn render() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH HOOKSTREAM 1 \"\" \"hookstream {version}\" \"User Commands\"\n\
         .SH NAME\nhookstream \\- deliver a CRM's change events from Kafka to webhooks\n\
         .SH SYNOPSIS\n.B hookstream\n.I SUBCOMMAND\n[\\fIOPTIONS\\fR]\n\
         .SH DESCRIPTION\n{}\n.SH SUBCOMMANDS\n",
        escaped(env!("CARGO_PKG_DESCRIPTION"))
    );
    for subcommand in Subcommand::ALL {
        let argument =
            subcommand.argument().map(|name| format!(" \\fI{}\\fR", name.to_ascii_uppercase())).unwrap_or_default();
        let words = escaped(subcommand.words());
        push(&mut text, format_args!(".TP\n.B {words}{argument}\n{}\n", escaped(subcommand.about())));
    }
    text.push_str(".SH OPTIONS\nEach option is also an environment variable of the same name; the option wins.\n");
    let mut heading = None;
    for (row, users) in options::distinct() {
        if heading.replace(row.heading) != Some(row.heading) {
            push(&mut text, format_args!(".SS {}\n", escaped(row.heading.title())));
        }
        option(&mut text, row, &users);
    }
    text.push_str(
        ".SH EXIT STATUS\n.TP\n.B 0\nsuccess\n.TP\n.B 1\nthe work failed, or the answer is no\n.TP\n.B 2\nthe command line \
         can't be understood, or files that it names can't be used\n.TP\n.B 130\nended by a signal\n",
    );
    text
}

fn option(text: &mut String, row: &Row, users: &[Subcommand]) {
    let flag = escaped(&row.flag_name());
    let value = if row.shape == Shape::Flag { String::new() } else { format!(" \\fI{}\\fR", escaped(row.placeholder)) };
    push(text, format_args!(".TP\n\\fB{flag}\\fR{value}\n{}\n", escaped(row.about)));
    let default = row.default.map(|default| format!("Default: {}. ", escaped(default))).unwrap_or_default();
    let users = users.iter().map(|user| user.words()).collect::<Vec<_>>().join(", ");
    push(
        text,
        format_args!(".br\n{default}Environment: {}. Taken by: {}.\n", escaped(&row.variable()), escaped(&users)),
    );
}

/// Appends to a String, which always succeeds.
fn push(text: &mut String, args: std::fmt::Arguments<'_>) {
    if text.write_fmt(args).is_err() {
        text.push('\n');
    }
}

/// Text that `man` shows as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // `man` reads a line that begins so as a command.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_subcommand_and_option_and_no_line_is_taken_for_a_command() {
        let page = render();
        for subcommand in Subcommand::ALL {
            assert!(page.contains(&escaped(subcommand.about())), "{}", subcommand.words());
        }
        for row in options::all() {
            assert!(page.contains(&escaped(&row.flag_name())) && page.contains(&escaped(row.about)), "{}", row.name);
        }
        let known = [".TH ", ".SH ", ".SS ", ".TP", ".B ", ".I ", ".br"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(known.iter().any(|command| line.starts_with(command)), "{line}");
        }
    }
}
