//! Every package that this program or its tests are built from has a permissive licence, comes from crates.io,
//! and is not banned. `deny.toml` holds the same rules for cargo-deny.

use std::process::Command;

use serde_json::Value;

/// As in `deny.toml`.
const ALLOWED: [&str; 8] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// As in `deny.toml`, with its reasons.
const BANNED: [&str; 4] = ["native-tls", "aws-lc-rs", "reqwest", "openssl"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the toolchain that runs this test");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The packages that a build on this machine uses; those of other systems need not be here to be looked at.
fn packages() -> Vec<Value> {
    let version = output(env!("CARGO"), &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments =
        ["metadata", "--format-version", "1", "--locked", "--filter-platform", host, "--manifest-path", manifest];
    let metadata: Value = serde_json::from_str(&output(env!("CARGO"), &arguments)).expect("JSON");
    let packages = metadata.get("packages").and_then(Value::as_array).expect("packages").clone();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// Whether a licence expression leaves a choice in which every part is allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>().into_iter().peekable();
    any_of(&mut words)
}

type Words<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

fn any_of(words: &mut Words<'_>) -> bool {
    let mut allowed = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        // Both sides are always read.
        allowed |= all_of(words);
    }
    allowed
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let allowed = any_of(words);
        return words.next() == Some(")") && allowed;
    }
    let Some(licence) = words.next() else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or_default();
        return ALLOWED.contains(&format!("{licence} WITH {exception}").as_str());
    }
    ALLOWED.contains(&licence)
}

#[test]
fn every_package_has_an_allowed_licence() {
    let packages = packages();
    let refused: Vec<_> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not among {ALLOWED:?}:\n{}", refused.join("\n"));
}

#[test]
fn every_package_comes_from_crates_io_and_is_not_banned() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let source = package["source"].as_str();
        assert!(source == Some(CRATES_IO) || name == "hookstream", "{name} comes from {source:?}");
        assert!(!BANNED.contains(&name), "{name} must not be here: see deny.toml");
    }
}

#[test]
fn the_list_is_the_one_in_deny_toml() {
    let deny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    let (_, list) = deny.split_once("allow = [").expect("a list of licences");
    let (list, _) = list.split_once(']').expect("the end of the list");
    let licences: Vec<_> =
        list.split(',').map(|word| word.trim().trim_matches('"')).filter(|it| !it.is_empty()).collect();
    assert_eq!(licences, ALLOWED);
    for name in BANNED {
        assert!(deny.contains(&format!("{{ crate = \"{name}\"")), "{name} is not banned in deny.toml");
    }
}

#[test]
fn expressions_are_read_as_spdx_does() {
    for allowed in
        ["MIT", "MIT OR GPL-3.0", "Unlicense/MIT", "(GPL-3.0 OR MIT) AND Zlib", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MIT WITH Something", "(MIT"] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
