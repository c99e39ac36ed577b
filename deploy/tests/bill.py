"""The bill of materials and the licences that images carry: complete, nothing else in it, the same at every run."""

import json
import re
import tempfile
from pathlib import Path

from report import ROOT, Report, must, need

COMMAND = ROOT / "deploy/bill-of-materials"


def check(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder) / "one", Path(folder) / "other"
        report.check("it can be made", must, COMMAND, one)
        report.check("it is the same to the byte at every run", same, one, other)
        report.check("each part has a name, a version, a licence and an address of its own", parts, one)
        report.check("it names what is linked, C sources too, and neither macros nor what tests use", linked, one)
        report.check("each package has the text of its licence or is named as bringing none", texts, one)


def components(folder: Path) -> list:
    return json.loads((folder / "sbom.cdx.json").read_text())["components"]


def same(one: Path, other: Path) -> None:
    must(COMMAND, other)
    for name in ("sbom.cdx.json", "licences.txt"):
        need((one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs")


def parts(folder: Path) -> None:
    found = components(folder)
    need(len(found) > 100, f"only {len(found)} parts")
    purls = [part["purl"] for part in found]
    need(len(purls) == len(set(purls)), "a part stands twice")
    for part in found:
        need(part["name"] and part["version"] and part["licenses"][0]["expression"], f"{part}")
        need(not part["purl"].startswith("pkg:cargo/") or re.fullmatch("[0-9a-f]{64}", part["hashes"][0]["content"]), f"{part}")


def linked(folder: Path) -> None:
    names = {part["name"] for part in components(folder)}
    there = {"tokio", "hyper", "rustls", "ring", "rdkafka-sys", "librdkafka", "openssl", "zstd", "zlib", "jemalloc", "rust-std"}
    need(there <= names, f"it lacks {there - names}")
    absent = {"proptest", "criterion", "rcgen", "serde_derive", "syn", "cc", "hookstream"}
    need(not absent & names, f"it has {absent & names}")


def texts(folder: Path) -> None:
    page = (folder / "licences.txt").read_text()
    need(page.startswith("hookstream: Apache-2.0"), page[:100])
    for part in components(folder):
        if part["purl"].startswith("pkg:cargo/"):
            need(f"\n{part['name']} {part['version']}" in page, f"{part['purl']} is missing")
    for text in ("Magnus Edenhill", "Jason Evans", "Jean-loup Gailly"):
        need(text in page, f"the licence of a bundled library is missing: {text}")
