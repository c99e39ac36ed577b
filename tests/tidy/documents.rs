//! What pages say about the source: the walk of one event, and which pages there are.

use std::fs;
use std::path::Path;

use crate::source::{Source, Token};

/// A function on the walk of one event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) file: String,
    pub(crate) function: String,
}

const HEADING: &str = "## The walk of one event";

/// The steps of the walk: each `` `src/file.rs` `` and the functions `` `name()` `` that follow it.
pub(crate) fn walk(page: &str) -> Vec<Step> {
    let Some((_, after)) = page.split_once(HEADING) else { return Vec::new() };
    let section = after.split("\n## ").next().unwrap_or_default();
    let (mut steps, mut file) = (Vec::new(), None);
    for quoted in section.split('`').skip(1).step_by(2) {
        if quoted.starts_with("src/") && quoted.ends_with(".rs") {
            file = Some(quoted.to_owned());
        } else if let (Some(function), Some(file)) = (quoted.strip_suffix("()"), &file) {
            steps.push(Step { file: file.clone(), function: function.to_owned() });
        }
    }
    steps
}

/// Where the walk turns: what is settled goes back up from there.
const WAY_BACK: &str = "The way back";

/// Steps before the way back that begin in a room which stands earlier in `lib.rs` than that of the step before, or that go up to a room
/// before their own. `root` is the text of `lib.rs`.
pub(crate) fn steps_back(page: &str, root: &str) -> Vec<String> {
    let place = |room: &str| root.lines().position(|line| line == format!("mod {room};"));
    let section = page.split_once(HEADING).map_or("", |(_, after)| after.split(WAY_BACK).next().unwrap_or_default());
    // A step begins with its number; its first file says where it begins.
    let mut steps: Vec<Vec<&str>> = Vec::new();
    for line in section.lines() {
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            steps.push(Vec::new());
        }
        let paths = line.split("`src/").skip(1).filter_map(|path| path.split('/').next());
        if let Some(step) = steps.last_mut() {
            step.extend(paths);
        }
    }
    let mut wrong = Vec::new();
    for step in &steps {
        let Some(first) = step.first() else { continue };
        let up = step.iter().filter(|room| place(room) < place(first));
        wrong.extend(up.map(|room| format!("a step that begins in {first} goes up to {room}")));
    }
    let begins: Vec<_> = steps.iter().filter_map(|step| step.first()).collect();
    let back = begins.windows(2).filter(|two| place(two[1]) < place(two[0]));
    wrong.extend(back.map(|two| format!("a step goes from {} back to {}", two[0], two[1])));
    if begins.len() < 2 {
        wrong.push("the walk is not found".to_owned());
    }
    wrong
}

/// What is wrong with a step, if anything is.
pub(crate) fn missing(step: &Step, sources: &[Source]) -> Option<String> {
    let Some(source) = sources.iter().find(|source| source.path == step.file) else {
        return Some(format!("{} does not exist", step.file));
    };
    let name = step.function.rsplit("::").next().unwrap_or_default();
    (!source.has(&["fn", name])).then(|| format!("{} has no function {name}", step.file))
}

/// Rooms that stand above one which may import them, in the table whose rows go from the top down. `layer` is a room's, the lowest first.
pub(crate) fn rooms_out_of_order(page: &str, layer: impl Fn(&str) -> Option<usize>) -> Vec<String> {
    let rows = rows_of_rooms(page);
    let mut wrong = Vec::new();
    for (above, below) in rows.iter().zip(rows.iter().skip(1)) {
        for (upper, lower) in above.iter().flat_map(|upper| below.iter().map(move |lower| (upper, lower))) {
            if layer(upper) < layer(lower) {
                wrong.push(format!("{upper} stands above {lower}, which may import it"));
            }
        }
    }
    if rows.len() < 2 {
        wrong.push("the table is not found".to_owned());
    }
    wrong
}

/// The rooms of the table, row by row.
fn rows_of_rooms(page: &str) -> Vec<Vec<&str>> {
    let section = page.split_once("## Rooms").map_or("", |(_, after)| after.split("\n## ").next().unwrap_or_default());
    let cells = section.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split(" | ").next());
    cells
        .map(|cell| {
            let names = cell.split('`').skip(1).step_by(2);
            names.map(|name| name.trim_end_matches(".rs").trim_end_matches('/')).collect()
        })
        .collect()
}

/// The rooms of the table from the top down.
pub(crate) fn rooms_of_table(page: &str) -> impl Iterator<Item = String> {
    rows_of_rooms(page).into_iter().flatten().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// Threads of the table in `threads`, the text of `app/threads.rs`, that the page's table does not name.
pub(crate) fn threads_left_out(page: &str, threads: &str) -> Vec<String> {
    let named = |line: &str| {
        let cell = line.split(" | ").next().unwrap_or_default();
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let section =
        page.split_once("## Threads").map_or("", |(_, after)| after.split("\n## ").next().unwrap_or_default());
    let told: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).flat_map(named).collect();
    let started: Vec<_> = threads
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with("| "))
        .flat_map(named)
        .collect();
    if started.is_empty() {
        return vec!["the table is not found".to_owned()];
    }
    started.into_iter().filter(|thread| !told.contains(thread)).collect()
}

const PLACES: &str = "## Where do I add …";
/// What paths of the table may leave out.
const ROOTS: [&str; 2] = ["", "src/"];
/// The endings that make a word without a slash a path.
const ENDINGS: [&str; 6] = [".rs", ".md", ".yml", ".json", ".js", ".py"];

/// What the table of places says and is not so: a path that is not there, an item that the file named before it does not define.
pub(crate) fn wrong_places(page: &str) -> Vec<String> {
    let section = page.split_once(PLACES).map_or("", |(_, after)| after.split("\n## ").next().unwrap_or_default());
    let mut wrong = Vec::new();
    let mut found = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let mut file = None;
        for quoted in row.split('`').skip(1).step_by(2) {
            // A command is its program and what it is told.
            let path = quoted.split(' ').next().unwrap_or_default();
            if path.contains('/') || ENDINGS.iter().any(|ending| path.ends_with(ending)) {
                file = ROOTS.iter().map(|root| format!("{root}{path}")).find(|path| Path::new(path).exists());
                found += 1;
                if file.is_none() {
                    wrong.push(format!("{path} does not exist"));
                }
            } else if let Some(file) = &file {
                let text = fs::read_to_string(file).unwrap_or_default();
                let defined = ["enum", "struct", "fn", "const", "type"];
                if !defined.iter().any(|word| text.contains(&format!("{word} {path}"))) {
                    wrong.push(format!("{file} defines no {path}"));
                }
            }
        }
    }
    if found == 0 {
        wrong.push("the table is not found".to_owned());
    }
    wrong
}

/// The folders of pages and scripts that people read, and how the names of these end. An empty ending is a file without one.
const READ: [(&str, &[&str]); 11] = [
    (".", &["md", "yml"]),
    (".ci", &[""]),
    ("docs", &["md"]),
    ("deploy", &["md", "", "sh"]),
    ("deploy/compose", &["sh"]),
    ("deploy/monitoring", &["yml"]),
    ("deploy/tests", &["py", "mjs"]),
    ("deploy/helm/hookstream", &["md", "yaml"]),
    ("deploy/helm/hookstream/templates", &["yaml", "tpl", "txt"]),
    ("benches", &["md"]),
    ("benches/readers", &["py"]),
];

/// The pages that people read, and the scripts whose comments and messages they read.
pub(crate) fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for (folder, endings) in READ {
        let entries = fs::read_dir(Path::new(folder)).unwrap().map(|entry| entry.unwrap().path());
        let texts = entries.filter(|path| path.is_file()).filter(|path| {
            let ending = path.extension().map_or("", |extension| extension.to_str().unwrap_or_default());
            endings.contains(&ending)
        });
        let before = pages.len();
        pages.extend(texts.map(|path| path.to_str().unwrap().to_owned()));
        assert!(pages.len() > before, "{folder} has no page");
    }
    // The contract is taken over word for word.
    pages.retain(|page| page != "docs/contract.md");
    pages
}

/// Words of so many parts are names of tests or metrics.
const PARTS_OF_A_TEST: usize = 5;

/// Tests that the page names and no source has. A page may give the beginning of a name, as `cargo test` takes it.
pub(crate) fn missing_tests(page: &str, sources: &[Source]) -> Vec<String> {
    let functions: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.tokens.windows(2))
        .filter_map(|two| match two {
            [Token::Word(function), Token::Word(name)] if function == "fn" => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let quoted = page.split('`').skip(1).step_by(2);
    let words = quoted.flat_map(|quoted| quoted.split(|char: char| !char.is_ascii_alphanumeric() && char != '_'));
    let named = words
        .filter(|word| word.split('_').count() >= PARTS_OF_A_TEST && !word.to_lowercase().starts_with("hookstream_"));
    named.filter(|word| !functions.iter().any(|name| name.starts_with(word))).map(str::to_owned).collect()
}
