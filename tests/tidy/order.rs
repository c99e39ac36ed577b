//! The order in which a folder lists its files: from the top down, so that a file uses only those that stand after it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Token};

/// Files that use each other. They stand side by side in their folder's list, and are read together.
pub(crate) struct Circle {
    pub(crate) folder: &'static str,
    pub(crate) files: &'static [&'static str],
}

/// Each has its reason in front of it. A circle that is gone is removed here.
pub(crate) const CIRCLES: &[Circle] = &[
    // A delivery settles in the account of its partition, which keeps what its lane returned.
    Circle { folder: "src/inflight", files: &["job", "partition", "from_lane"] },
];

/// A list of a `mod.rs`, or of the root: names in the order in which they stand. Modules that only tests use are left out.
pub(crate) fn list(source: &Source) -> Vec<String> {
    modules(source).filter(|(_, is_for_tests)| !is_for_tests).map(|(name, _)| name).collect()
}

/// The files that a file lists, and whether only tests use them.
fn modules(source: &Source) -> impl Iterator<Item = (String, bool)> {
    source.positions(&["mod"]).filter_map(|at| match &source.tokens[at + 1..] {
        [Token::Word(name), Token::Mark(';'), ..] => Some((name.clone(), is_for_tests(&source.tokens[..at]))),
        _ => None,
    })
}

/// The modules in files of their own that only tests use.
fn test_modules(sources: &[Source]) -> Vec<Vec<String>> {
    let of_one = |source: &Source| {
        let here = module(&source.path)?;
        let only = modules(source).filter(|(_, is_for_tests)| *is_for_tests);
        Some(only.map(|(name, _)| [&here[..], &[name]].concat()).collect::<Vec<_>>())
    };
    sources.iter().filter_map(of_one).flatten().collect()
}

/// Whether the attribute in front of an item leaves the item to tests. `before` ends where the item's own word begins.
fn is_for_tests(before: &[Token]) -> bool {
    // What stands between the attribute and the item's word is its visibility.
    let visibility = ["pub", "crate", "super"].map(|word| Token::Word(word.to_owned()));
    let end = before.iter().rposition(|token| !(visibility.contains(token) || matches!(token, Token::Mark('(' | ')'))));
    let Some(end) = end.filter(|end| before[*end] == Token::Mark(']')) else { return false };
    let start = before[..end].iter().rposition(|token| *token == Token::Mark('[')).unwrap_or(end);
    let has = |word: &str| before[start..end].contains(&Token::Word(word.to_owned()));
    has("cfg") && has("test") && !has("not")
}

/// The tokens without modules in braces: these are tests, labs and the root's `internals`, which may name anything.
fn outside_of_inner_modules(tokens: &[Token]) -> Vec<Token> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        let opens = *token == Token::Word("mod".to_owned())
            && matches!(tokens.get(at + 1..at + 3), Some([Token::Word(_), Token::Mark('{')]));
        if opens {
            at += 3 + inside(&tokens[at + 3..]).len();
        } else {
            kept.push(token.clone());
        }
        at += 1;
    }
    kept
}

/// What stands before the bracket that closes a group which was opened already.
fn inside(tokens: &[Token]) -> &[Token] {
    let mut depth = 0;
    let end = tokens.iter().position(|token| {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        depth < 0
    });
    &tokens[..end.unwrap_or(tokens.len())]
}

/// The module of a file in `src`, as words from the root.
fn module(path: &str) -> Option<Vec<String>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    Some(if inner == "lib" { Vec::new() } else { inner.split('/').map(str::to_owned).collect() })
}

/// All paths of a file that begin at the root, at its own module or above it, as words from the root.
fn paths(source: &Source, module: &[String]) -> Vec<Vec<String>> {
    let tokens = outside_of_inner_modules(&source.tokens);
    let mut paths = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let goes_on_a_path = at > 0 && tokens[at - 1] == Token::Mark(':');
        let Token::Word(word) = token else { continue };
        if goes_on_a_path {
            continue;
        }
        let begin = match word.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        branches(&tokens[at + 1..], begin, &mut paths);
    }
    paths
}

/// The paths that go on from `begin`: `::a::{b, c::d}` gives two.
fn branches(tokens: &[Token], mut begin: Vec<String>, paths: &mut Vec<Vec<String>>) {
    match tokens {
        [Token::Mark(':'), Token::Mark(':'), Token::Word(word), rest @ ..] => {
            if word == "super" {
                begin.pop();
            } else {
                begin.push(word.clone());
            }
            branches(rest, begin, paths);
        }
        [Token::Mark(':'), Token::Mark(':'), Token::Mark('{'), rest @ ..] => {
            let group = inside(rest);
            let (mut depth, mut starts) = (0, true);
            for (at, token) in group.iter().enumerate() {
                match token {
                    Token::Mark('{') => depth += 1,
                    Token::Mark('}') => depth -= 1,
                    Token::Mark(',') if depth == 0 => starts = true,
                    Token::Word(word) if depth == 0 && starts => {
                        let next = begin.iter().chain([word]).cloned().collect();
                        branches(&group[at + 1..], next, paths);
                        starts = false;
                    }
                    _ => {}
                }
            }
        }
        _ => paths.push(begin),
    }
}

/// For each folder its list, and which name of it uses which.
struct Folder {
    list: Vec<String>,
    uses: BTreeSet<(usize, usize)>,
}

fn folders(sources: &[Source]) -> BTreeMap<Vec<String>, Folder> {
    let heads = sources.iter().filter(|source| source.path.ends_with("/mod.rs") || source.path == "src/lib.rs");
    let mut folders: BTreeMap<_, _> = heads
        .filter_map(|head| Some((module(&head.path)?, Folder { list: list(head), uses: BTreeSet::new() })))
        .collect();
    let for_tests = test_modules(sources);
    for source in sources {
        let Some(here) = module(&source.path) else { continue };
        if for_tests.iter().any(|module| here.starts_with(module)) {
            continue;
        }
        for there in paths(source, &here) {
            let common = here.iter().zip(&there).take_while(|(here, there)| here == there).count();
            let (Some(importer), Some(target)) = (here.get(common), there.get(common)) else { continue };
            let Some(folder) = folders.get_mut(&here[..common]) else { continue };
            let place = |name| folder.list.iter().position(|listed| listed == name);
            if let (Some(from), Some(to)) = (place(importer), place(target)) {
                folder.uses.insert((from, to));
            }
        }
    }
    folders
}

/// A file that uses an earlier file of its list is named, and so is a listed circle whose files are apart or form no circle.
pub(crate) fn out_of_order(sources: &[Source], circles: &[Circle]) -> Vec<String> {
    let mut wrong = Vec::new();
    let folders = folders(sources);
    for (module, folder) in &folders {
        let name = format!("src/{}", module.join("/"));
        let circles: Vec<_> = circles.iter().filter(|circle| circle.folder == name).collect();
        for (user, used) in &folder.uses {
            let (importer, target) = (folder.list[*user].as_str(), folder.list[*used].as_str());
            let is_circle =
                circles.iter().any(|circle| [importer, target].iter().all(|file| circle.files.contains(file)));
            if used < user && !is_circle {
                wrong.push(format!("{name}: {importer} uses {target}, which stands before it"));
            }
        }
        for circle in circles {
            let places: Vec<_> =
                (0..folder.list.len()).filter(|at| circle.files.contains(&&*folder.list[*at])).collect();
            let is_together = places.windows(2).all(|two| two[1] == two[0] + 1);
            if places.len() != circle.files.len() || !is_together {
                wrong.push(format!("{name}: {:?} do not stand side by side", circle.files));
            }
            if !is_one(&places, &folder.uses) {
                wrong.push(format!("{name}: {:?} is not a circle any more", circle.files));
            }
        }
    }
    let known = |circle: &&Circle| !folders.keys().any(|module| format!("src/{}", module.join("/")) == circle.folder);
    wrong.extend(circles.iter().filter(known).map(|circle| format!("{} is not a folder", circle.folder)));
    wrong
}

/// Whether each of these files leads to each other one.
fn is_one(files: &[usize], uses: &BTreeSet<(usize, usize)>) -> bool {
    files.iter().all(|start| {
        let mut reached = BTreeSet::from([*start]);
        for _ in files {
            let next = uses.iter().filter(|(user, used)| reached.contains(user) && files.contains(used));
            let next: Vec<_> = next.map(|(_, used)| *used).collect();
            reached.extend(next);
        }
        reached.len() == files.len()
    })
}

/// Files of `src` that no list names, or more than one does.
pub(crate) fn not_listed(sources: &[Source]) -> Vec<String> {
    let mut named: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for source in sources {
        let Some(module) = module(&source.path) else { continue };
        for (name, _) in modules(source) {
            *named.entry([&module[..], &[name]].concat()).or_default() += 1;
        }
    }
    // Tests beside the code are named by a path.
    let files = sources.iter().filter(|source| {
        !["src/lib.rs", "src/main.rs"].contains(&&*source.path) && !source.path.ends_with("_tests.rs")
    });
    files
        .filter(|file| module(&file.path).is_some_and(|module| named.get(&module) != Some(&1)))
        .map(|file| format!("{} does not stand in exactly one list", file.path))
        .collect()
}
