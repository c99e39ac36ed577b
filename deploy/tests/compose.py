"""Checks docker-compose.yml and the image: reads them with the specification's own loader and compares them with the files that they name."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import yaml

from options import VARIABLES
from report import ROOT, Report, must, need, run

FILE = ROOT / "docker-compose.yml"


def model() -> dict:
    return json.loads(must(os.environ["COMPOSE_BIN"], "--format", "json", FILE, cwd=ROOT))


def check(report: Report) -> None:
    loaded = report.check("the specification's loader accepts the file", model)
    report.check("the loader refuses an unknown field", refuses_unknown)
    if loaded is None:
        return
    services = loaded["services"]
    report.check("the system is complete", complete, services)
    report.check("images are pinned", pinned, services)
    report.check("what is mounted exists", mounted, services)
    report.check("ports are open on this machine only", local_ports, services)
    report.check("variables are options of the program", variables, services)
    report.check("our containers have no rights", no_rights, services)
    report.check("receivers are in the network that is allowed", allowed_network, loaded)
    report.check("Prometheus finds the services by name", names, services)
    report.check("scripts are sound", scripts)
    report.check("the receivers' secret is the one that is registered", secret, services)
    report.check("the image is pinned and runs as a user without rights", dockerfile)
    report.check("the image's build gets all of the package", context)


def refuses_unknown() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "docker-compose.yml"
        wrong.write_text(FILE.read_text().replace("    command: [worker]\n", "    comand: [worker]\n"))
        done = run(os.environ["COMPOSE_BIN"], wrong, cwd=folder)
        need(done.returncode != 0 and "comand" in done.stdout + done.stderr, f"{done.stdout[-500:]}{done.stderr[-500:]}")


def complete(services: dict) -> None:
    wanted = {"kafka", "topics", "worker", "api", "console", "receiver", "prometheus", "grafana"}
    need(wanted <= services.keys(), f"missing: {wanted - services.keys()}")
    need(services["worker"]["deploy"]["replicas"] == 2, "there are not two workers")
    commands = {name: service.get("command") for name, service in services.items()}
    need(commands["topics"] == ["topics", "apply"] and commands["worker"] == ["worker"] and commands["api"] == ["api"], f"{commands}")
    need(services["worker"]["depends_on"]["topics"]["condition"] == "service_completed_successfully", "workers do not wait for the topics")


def pinned(services: dict) -> None:
    for name, service in services.items():
        image = service["image"]
        if "build" not in service:
            need(re.fullmatch(r"[a-z0-9/-]+:v?[0-9]+(\.[0-9]+){2}", image), f"{name}: {image} names no full version")


def mounted(services: dict) -> None:
    for name, service in services.items():
        for volume in service.get("volumes") or []:
            if isinstance(volume, dict):
                source, target, read_only = volume["source"], volume["target"], volume.get("read_only")
            else:
                source, target, mode = volume.split(":")
                read_only = mode == "ro"
            need(Path(ROOT, source).exists(), f"{name} mounts {source}, which is not there")
            need(read_only is True, f"{name} may write to {target}")


def local_ports(services: dict) -> None:
    text = yaml.safe_load(FILE.read_text())["services"]
    for name, service in text.items():
        for port in service.get("ports", []):
            need(port.startswith("127.0.0.1:"), f"{name} opens {port}")
    need(services, "no services")


def variables(services: dict) -> None:
    for name, service in services.items():
        for variable in service.get("environment") or {}:
            if variable.startswith("HOOKSTREAM_"):
                need(variable in VARIABLES, f"{name}: the program has no option for {variable}")
        for word in service.get("command") or []:
            if word.startswith("--") and "hookstream" in service["image"]:
                need("HOOKSTREAM_" + word[2:].upper().replace("-", "_") in VARIABLES, f"{name}: the program has no option {word}")


def no_rights(services: dict) -> None:
    for name, service in services.items():
        if service["image"].startswith("hookstream"):
            need(service["read_only"] is True and service["cap_drop"] == ["ALL"], f"{name} has rights it does not need")


def allowed_network(loaded: dict) -> None:
    subnet = loaded["networks"]["default"]["ipam"]["config"][0]["subnet"]
    for name in ("worker", "api"):
        allowed = loaded["services"][name]["environment"]["HOOKSTREAM_ALLOW_PRIVATE_NETWORKS"]
        need(allowed == subnet, f"{name} allows {allowed} and the network is {subnet}")


def names(services: dict) -> None:
    configuration = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())
    for job in configuration["scrape_configs"]:
        for source in job["dns_sd_configs"]:
            for name in source["names"]:
                need(name in services, f"{job['job_name']} asks for {name}, which is no service")
    source = yaml.safe_load((ROOT / "deploy/monitoring/grafana/datasources/prometheus.yml").read_text())["datasources"][0]
    need(re.match(r"http://([a-z]+):", source["url"])[1] in services, f"Grafana asks {source['url']}")


def scripts() -> None:
    for script in (ROOT / "deploy/compose").glob("*.sh"):
        must("sh", "-n", script)
    # The events are events: run with a producer that only shows them.
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "producer"
        shown.write_text("#!/bin/sh\ncat\n")
        shown.chmod(0o755)
        environment = {"PATH": os.environ["PATH"], "PRODUCER": str(shown), "BROKERS": "none", "TOPIC": "none", "PAUSE": "0", "COUNT": "15"}
        lines = must("sh", ROOT / "deploy/compose/events.sh", env=environment).splitlines()
    need(len(lines) == 15, f"{len(lines)} events and not 15")
    for line in lines:
        headers, _, record = line.partition("\t")
        key, _, value = record.partition("|")
        event = json.loads(value)
        need(headers == "workspace:demo" and key in event["entityIds"].values() and event["id"] and event["type"] == "change" and event["entityIds"], line)


def secret(services: dict) -> None:
    found = {name: service["environment"][variable] for name, variable in (("receiver", "HOOKSTREAM_SECRET"), ("receiver-flaky", "HOOKSTREAM_SECRET"), ("register", "SECRET")) for service in [services[name]]}
    need(len(set(found.values())) == 1 and found["register"].startswith("whsec_"), "the receivers and the registration have different secrets")


def dockerfile() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    stages = {"scratch", *re.findall(r"^FROM \S+ AS (\S+)", text, re.M)}
    for image in sorted(set(re.findall(r"^FROM (\S+)", text, re.M)) - stages):
        need(re.fullmatch(r"[a-z]+:[0-9]+(\.[0-9]+)+-slim(-[a-z]+)?", image), f"{image} names no full version")
    toolchain = re.search(r'channel = "([^"]+)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    need(f"FROM rust:{toolchain}-" in text and f"RUSTUP_TOOLCHAIN={toolchain}" in text, f"the image is not built with {toolchain}")
    need(re.search(r"^USER 65532:65532$", text, re.M), "the image runs as root")


def context() -> None:
    """Copies what .dockerignore lets through and asks cargo whether a target's file is missing."""
    lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        for name in [line[1:] for line in lines if line.startswith("!")]:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=shutil.ignore_patterns("target", "node_modules"))
            elif source.exists():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        environment = dict(os.environ, CARGO_TARGET_DIR=str(Path(folder) / "target"))
        metadata = json.loads(must("cargo", "metadata", "--no-deps", "--locked", "--format-version", "1", cwd=folder, env=environment))
        targets = [target for package in metadata["packages"] for target in package["targets"]]
        need(any(target["name"] == "hookstream" and "bin" in target["kind"] for target in targets), "there is no binary")
        for target in targets:
            need(Path(target["src_path"]).exists(), f"{target['name']}: {Path(target['src_path']).relative_to(folder)} is kept out of the image's build")
