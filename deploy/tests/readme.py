"""Checks the README: types its commands, and looks for the files and outputs that it names."""

import os
import tempfile
from pathlib import Path

import docs
from processes import Loopback, kafka_jars
from report import ROOT, Report, need
from walk import Walk, blocks

PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "deploy/helm/hookstream/README.md")


def check(report: Report) -> None:
    for name in PAGES:
        for claim, function in (("links lead somewhere", docs.links), ("options and commands are the program's", docs.options), ("nothing of one machine", docs.no_machine)):
            report.check(f"{name}: {claim}", function, ROOT / name)
    for page in [ROOT / "README.md", ROOT / "docs/runbook.md", ROOT / "docs/operations.md", ROOT / "docs/receivers.md"]:
        report.check(f"{page.name}: each command has the options that it is given", lambda page=page: need(docs.commands(page), "there are no commands"))
    report.check("the demo delivers to a receiver of one's own", own_receiver)
    report.check("the ten minutes without Docker lead to a dead letter redriven", without_docker)


def own_receiver() -> None:
    """Typed as it stands there, but for the addresses, the build and the token, which the demo shows."""
    loopback = Loopback([9464, 8080, 8090, 9000])
    own = {port: f"{loopback.address(1)}:{port + loopback.moved}" for port in (9464, 8080, 8090, 9000)}
    replaced = {f"127.0.0.1:{port}": here for port, here in own.items()}
    replaced |= {"cargo run --release --": os.environ["PROGRAM"], "target/release/hookstream": os.environ["PROGRAM"]}
    environment = {
        "HOOKSTREAM_ADMIN_LISTEN": own[9464], "HOOKSTREAM_API_LISTEN": own[8080], "HOOKSTREAM_CONSOLE_LISTEN": own[8090],
        "HOOKSTREAM_LISTEN": own[9000],
    }
    with tempfile.TemporaryDirectory(prefix="hookstream-demo-") as folder:
        walk = Walk(folder=Path(folder), replaced=replaced, environment=environment, shown={"THE-TOKEN": r"^token +(\w+)$", "THE-BROKER": r"^broker +(\S+)$"})
        walk.run(blocks("Your own receiver in the demo"))


def without_docker() -> None:
    """Typed as it stands there, but for the addresses, which are this run's own, and the build, which was made before."""
    kafka_jars()
    loopback = Loopback([9092, 9093, 9464, 9465, 8080, 9000])
    own = {port: f"{loopback.address(1)}:{port + loopback.moved}" for port in (9092, 9093, 9464, 9465, 8080, 9000)}
    replaced = {f"{host}:{port}": here for port, here in own.items() for host in ("localhost", "127.0.0.1")}
    replaced |= {"cargo build --release": "true", "target/release/hookstream": os.environ["PROGRAM"]}
    # Settings that the commands assume, in the variables of their names.
    environment = {
        "KAFKA_LISTEN": own[9092], "KAFKA_CONTROLLER_LISTEN": own[9093], "HOOKSTREAM_BROKERS": own[9092],
        "HOOKSTREAM_ADMIN_LISTEN": own[9464], "HOOKSTREAM_API_LISTEN": own[8080], "HOOKSTREAM_LISTEN": own[9000],
    }
    with tempfile.TemporaryDirectory(prefix="hookstream-readme-") as folder:
        replaced["target/tokens"] = f"{folder}/tokens"
        Walk(folder=Path(folder), replaced=replaced, environment=environment).run(blocks("Without Docker"))
