"""The pages of docs/: links that lead somewhere, options that exist, numbers that follow from one another."""

import functools
import json
import re
from pathlib import Path

import yaml

import completions
from options import NAMES, VARIABLES
from processes import binary
from report import ROOT, Report, must, need

PAGES = sorted((ROOT / "docs").glob("*.md"))
SUBCOMMANDS = {
    "worker", "api", "demo", "receiver", "topics plan", "topics apply", "dead-letters list", "dead-letters show",
    "dead-letters redrive", "replay", "resume", "explain", "integrations", "health",
    "attempts", "trace", "console", "check", "completions", "man", "help",
}

# Words that begin like a variable of the program and are not one.
NO_OPTIONS = {"HOOKSTREAM_", "HOOKSTREAM_LIKE_THIS"}


@functools.cache
def of_tests() -> set:
    """The variables that the tests read."""
    sources = [*(ROOT / "tests").rglob("*.rs"), *(ROOT / "src").rglob("*.rs")]
    return {name for source in sources for name in re.findall(r'"(HOOKSTREAM_(?:TEST|SIM)_[A-Z_]+)"', source.read_text())}


def check(report: Report) -> None:
    report.check("the options that are compared with are the program's", known_options)
    completions.check(report)
    for page in PAGES:
        report.check(f"{page.name}: links lead somewhere", links, page)
        report.check(f"{page.name}: options and commands are the program's", options, page)
        report.check(f"{page.name}: code can be parsed", parsed, page)
        report.check(f"{page.name}: one title, headings in order", headings, page)
        report.check(f"{page.name}: nothing of one machine", no_machine, page)


def anchors(page: Path) -> set:
    """The anchors of a page's headings, as a repository's web page makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        need(file.exists(), f"{target} is not there")
        need(not anchor or anchor in anchors(file), f"{target}: {file.name} has no such heading")


def options(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", "\n".join(ours(text))):
        need(name in NAMES or name == "like-this", f"the program has no option --{name}")
    for variable in re.findall(r"HOOKSTREAM_[A-Z_]+", text):
        need(variable in VARIABLES | NO_OPTIONS | of_tests(), f"the program has no variable {variable}")
    for first, second in re.findall(r"(?:^|[`\s])hookstream (worker|api|demo|receiver|topics|dead-letters|replay|resume|explain|integrations|health|attempts|trace|console|check|completions|man|help)\b\s?([a-z]+)?", text):
        both = f"{first} {second}" if first in ("topics", "dead-letters") else first
        need(both in SUBCOMMANDS, f"the program has no command {both}")


@functools.cache
def options_of(command: str) -> set:
    """The options in the program's own help."""
    return set(re.findall(r"^  --([a-z-]+)", must(binary(), "help", *command.split()), re.M))


def commands(page: Path) -> int:
    """Every command line of the program has options that this very command knows. How many there are."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.S | re.M)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M))
    found = 0
    for line in [line for block in blocks for line in block.splitlines()] + [" ".join(span.split()) for span in spans]:
        command = re.search(r"\bhookstream ((?:topics|dead-letters) [a-z]+|worker|api|demo|receiver|replay|resume|explain|integrations|health|attempts|trace|console|check)\b([^|;&#]*)", line)
        if command:
            found += 1
            for option in re.findall(r"(?<=\s)--([a-z][a-z-]*)", command[2]):
                need(option in options_of(command[1]), f"`hookstream {command[1]}` has no option --{option}: {line}")
    return found


def ours(text: str):
    """Lines and code spans without the commands of other programs."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        spans = re.split(r"`", line)
        for span in spans:
            if not re.search(r"\b(kubectl|helm|docker|kafka-[a-z-]+\.sh|openssl|curl|cargo)\b", span) and not span.lstrip().startswith(("--set", "--test ", "--target ")):
                yield span


def parsed(page: Path) -> None:
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.S | re.M):
        if language == "json":
            json.loads(code)
        elif language == "yaml":
            yaml.safe_load(code)
        need(language in ("json", "yaml", "bash", "http", "text", "toml", "python", "javascript", "go", "rust"), f"a block in {language}")


def headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
    need(levels.count(1) == 1 and levels[0] == 1, "there is not one title at the top")
    need(all(after - before <= 1 for before, after in zip(levels, levels[1:])), f"a level is left out: {levels}")
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    need(len(titles) == len(set(titles)), "two headings are the same")


def no_machine(page: Path) -> None:
    for word in (f"/{folder}/" for folder in ("work", "root", "tmp", "home")):
        need(word not in page.read_text(), f"it names {word}")


def known_options() -> None:
    """The list that pages, chart and compose file are compared with is the program's own."""
    rows = "".join((ROOT / f"src/settings/options/{name}.rs").read_text() for name in ("shared", "tools"))
    there = set(re.findall(r'\w\(\s*"([a-z][a-z-]*)",', rows))
    listed = NAMES - {"help", "version"}
    need(there == listed, f"only the program has {there - listed}; only deploy/tests/options.py has {listed - there}")
