//! Which room may import which, how many arrows there are between them, and which names only some rooms may use.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Token};

/// The rooms, lowest first. A room may import those of lower layers, and no other.
pub(crate) const LAYERS: &[&[&str]] = &[
    &["clock"],
    &["domain"],
    &["settings"],
    &["net"],
    &["telemetry"],
    &["kafka"],
    &["topics"],
    &["inflight"],
    &["backlog"],
    &["health"],
    &["attempt_log"],
    &["deliver"],
    &["intake", "readers"],
    &["actions"],
    &["registration"],
    &["console"],
    &["app"],
    &["tools"],
    &["run"],
    &["process"],
    &["fuzzing", "lib", "main"],
];

/// The layer of a room: its place in [`LAYERS`].
pub(crate) fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Imports of a room from one that is not below it.
pub(crate) fn arrows_up(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else { return Vec::new() };
    let here = layer(room);
    let mut violations = Vec::new();
    for target in imported(source) {
        let there = layer(&target);
        // The root's own items, such as a function of lib.rs, belong to no room.
        if target != room && there.is_some() && there >= here {
            violations.push(format!("imports {target}, which is not below {room}"));
        }
    }
    violations.dedup();
    violations
}

/// The first words of all paths that begin with `crate::`, or with enough `super::` to reach the root.
fn imported(source: &Source) -> Vec<String> {
    let after_crate = source.positions(&["crate", ":", ":"]).map(|at| at + 3);
    let after_super = source.positions(&["super", ":", ":"]).map(|at| at + 3).filter(|after| {
        let before = source.tokens[..*after].rchunks(3);
        let steps =
            before.take_while(|three| matches!(three.first(), Some(Token::Word(word)) if word == "super")).count();
        steps >= depth(&source.path)
    });
    let mut rooms = Vec::new();
    for after in after_crate.chain(after_super) {
        match &source.tokens[after..] {
            [Token::Word(word), ..] => rooms.push(word.clone()),
            [Token::Mark('{'), rest @ ..] => rooms.extend(first_words(rest)),
            _ => {}
        }
    }
    rooms
}

/// How many modules a file is below the root.
fn depth(path: &str) -> usize {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.trim_end_matches("/mod").split('/').count()
}

/// The rooms, their arrows and the largest room with its share of the lines in per cent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) rooms: usize,
    pub(crate) arrows: usize,
    pub(crate) largest: String,
    pub(crate) share: usize,
}

/// The sizes of the source. The roots of crates are not rooms.
pub(crate) fn sizes(sources: &[Source]) -> Sizes {
    let is_room = |room: &str| layer(room).is_some_and(|layer| layer + 1 < LAYERS.len());
    let (mut lines, mut arrows) = (BTreeMap::new(), BTreeSet::new());
    for source in sources {
        let Some(room) = source.room() else { continue };
        *lines.entry(room).or_insert(0) += source.text.lines().count();
        let targets = imported(source).into_iter().filter(|target| target != room && is_room(target));
        arrows.extend(targets.filter(|_| is_room(room)).map(|target| (room, target)));
    }
    let (largest, most) =
        lines.iter().max_by_key(|(_, lines)| **lines).map_or(("", 0), |(room, lines)| (*room, *lines));
    let share = (most * 100).checked_div(lines.values().sum()).unwrap_or(0);
    let rooms = lines.keys().filter(|room| is_room(room)).count();
    Sizes { rooms, arrows: arrows.len(), largest: largest.to_owned(), share }
}

/// The sizes that the page states.
pub(crate) fn stated_sizes(page: &str) -> Option<Sizes> {
    let number =
        |text: &str| text.split(|char: char| !char.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok();
    let (_, now) = page.split_once("Now there are some ")?;
    let (_, largest) = now.split_once("the largest room, `")?;
    Some(Sizes {
        rooms: number(now.split_once(" between ")?.1)?,
        arrows: number(now)?,
        largest: largest.split('/').next()?.to_owned(),
        share: number(largest)?,
    })
}

/// The first word of each path in `{a::b, c::{d}}`, whose opening bracket was read already.
fn first_words(tokens: &[Token]) -> Vec<String> {
    let (mut words, mut depth, mut is_first) = (Vec::new(), 0, true);
    for token in tokens {
        match token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') if depth == 0 => break,
            Token::Mark('}') => depth -= 1,
            Token::Mark(',') if depth == 0 => is_first = true,
            Token::Word(word) if is_first => {
                words.push(word.clone());
                is_first = false;
            }
            _ => {}
        }
    }
    words
}

/// A name, and the places in `src` that may use it.
struct Reserved {
    words: &'static [&'static str],
    what: &'static str,
    places: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["rdkafka", ":", ":"],
        what: "the Kafka client",
        places: &[
            "src/kafka/",
            "src/settings/kafka_property.rs",
            "src/topics/cluster.rs",
            "src/backlog/catch_up.rs",
            "src/backlog/places.rs",
            "src/intake/",
            "src/deliver/publish.rs",
            "src/health/",
            "src/attempt_log/writer.rs",
            "src/registration/registry/",
            "src/readers/",
            "src/actions/",
            "src/tools/",
        ],
    },
    Reserved {
        words: &["hyper", ":", ":"],
        what: "the HTTP library",
        places: &[
            "src/net/",
            "src/deliver/",
            "src/registration/http/",
            "src/telemetry/admin.rs",
            "src/tools/receiver/",
        ],
    },
    Reserved {
        words: &["hyper_util", ":", ":"],
        what: "the HTTP library",
        places: &[
            "src/net/",
            "src/deliver/",
            "src/registration/http/",
            "src/console/forward.rs",
            "src/tools/receiver/",
        ],
    },
    Reserved {
        words: &["axum", ":", ":"],
        what: "the framework of the API",
        places: &["src/registration/http/", "src/console/", "src/tools/demo/receivers.rs"],
    },
    Reserved {
        words: &["env", ":", ":", "var"],
        what: "the environment",
        places: &["src/settings/mod.rs", "src/backlog/simulator/mod.rs"],
    },
    Reserved { words: &["env", ":", ":", "var_os"], what: "the environment", places: &["src/settings/mod.rs"] },
    Reserved { words: &["env", ":", ":", "vars_os"], what: "the environment", places: &["src/settings/mod.rs"] },
    Reserved { words: &["env", ":", ":", "args_os"], what: "the arguments", places: &["src/settings/mod.rs"] },
    Reserved {
        words: &["SystemTime", ":", ":", "now"],
        what: "the wall clock",
        places: &["src/clock.rs", "src/net/hosts.rs"],
    },
    // Counted anywhere else, an error would count twice.
    Reserved {
        words: &["KAFKA_ERRORS"],
        what: "the count of the Kafka clients' errors",
        places: &["src/kafka/context.rs", "src/telemetry/metrics/mod.rs"],
    },
    Reserved { words: &["Timestamp", ":", ":", "now"], what: "the wall clock", places: &["src/clock.rs"] },
    Reserved { words: &["Zoned", ":", ":", "now"], what: "the wall clock", places: &["src/clock.rs"] },
];

/// The endings of topics and groups that derive from an option.
const DERIVED: [&str; 7] = [".deltas", ".counts", ".now", ".{tier}", "-retry", "-schedule", "-health"];

/// Format strings that make a derived name of a topic or a group outside of the one file for that.
pub(crate) fn names_of_topics(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.path == "src/domain/topic_names.rs" {
        return Vec::new();
    }
    let derived = |text: &str| {
        let ending = text.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(_, ending)| ending);
        ending.is_some_and(|ending| DERIVED.contains(&ending))
    };
    let texts = source.tokens.iter().filter_map(|token| match token {
        Token::Text(text) if derived(text) => Some(format!("makes a name by {text:?}")),
        _ => None,
    });
    texts.collect()
}

/// Rooms whose rules take the time as an argument and do no input or output.
const PURE: [&str; 2] = ["src/domain/", "src/health/rules/"];

/// What pure rooms must not name.
const IMPURE: [&[&str]; 7] = [
    &["tokio"],
    &["rdkafka"],
    &["hyper"],
    &["std", ":", ":", "fs"],
    &["std", ":", ":", "net", ":", ":", "Tcp"],
    &["Instant", ":", ":", "now"],
    &["tracing"],
];

/// Uses of reserved names elsewhere, and of input, output or clocks in pure rooms.
pub(crate) fn names_of_others(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut violations = Vec::new();
    for Reserved { words, what, places } in RESERVED {
        if source.has(words) && !places.iter().any(|place| source.path.starts_with(place)) {
            violations.push(format!("names {what} ({})", words.concat()));
        }
    }
    if PURE.iter().any(|room| source.path.starts_with(room)) {
        let named = IMPURE.iter().filter(|words| source.has(words));
        violations.extend(named.map(|words| format!("is pure and names {}", words.concat())));
    }
    violations
}
