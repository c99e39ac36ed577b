"""The system of docker-compose.yml run without Docker, from its first command to a delivered event and its end."""

import json
import os
import tempfile
from pathlib import Path

import yaml

from monitoring import queries
from processes import get, get_json, until
from report import ROOT, Report, need
from stack import GRAFANA, OURS, Docker, Stack, model, seconds
from walk import Walk, blocks


def check(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="hookstream-stack-") as name:
        folder = Path(name)
        stack = report.check("every service has a command that can be run here", lambda: Stack(model(ROOT / "docker-compose.yml"), folder))
        if stack is None:
            return
        docker = Docker(stack, folder)
        try:
            run(report, stack, docker)
        finally:
            docker.close()
            stack.down()


def run(report: Report, stack: Stack, docker: Docker) -> None:
    report.check("another service waits for each that ends by itself, or `up --wait` fails", one_shots, stack)
    walk = Walk(folder=stack.folder, path=docker.path, replaced=published(stack))
    if report.check("the README's ten minutes with Docker lead to a dead letter redriven", with_docker, walk) is None:
        report.check("every container is well", all_well, stack)
        return
    report.check("every container is well", all_well, stack)
    report.check("events are delivered to both receivers, signed", delivered, stack)
    report.check("Prometheus scrapes every target", scraped, stack)
    report.check("Prometheus evaluates every rule", evaluated, stack)
    report.check("the registration API answers", registered, stack)
    report.check("Grafana's files fit each other and the compose file", provisioned, stack)
    report.check("Grafana's source of data answers every query of the dashboard", answered, stack)
    report.check("our containers end in time and in order when they are stopped", stopped, stack)


def one_shots(stack: Stack) -> None:
    need(stack.one_shots() == {"topics", "register"}, f"waited for are {stack.one_shots()}")


def published(stack: Stack) -> dict:
    """The commands of a person at the host, adapted to this machine."""
    replaced = {}
    for name, service in stack.model["services"].items():
        for port in service.get("ports") or []:
            for host in ("localhost", "127.0.0.1"):
                replaced[f"{host}:{port['published']}"] = stack.address(name, port["target"])
    return replaced


def with_docker(walk: Walk) -> bool:
    walk.run(blocks("With Docker"))
    return True


def all_well(stack: Stack) -> None:
    for container in stack.all():
        code = container.process.code() if container.process else "not started"
        name = container.name.rsplit("-", 1)[0]
        need(code == (0 if name in stack.one_shots() else None), f"{container.name}: {code}\n{container.process.tail() if container.process else ''}")
        if "healthcheck" in container.service:
            container.healthy()


def counts(stack: Stack, name: str) -> dict:
    return get_json(f"http://{stack.address(name, 9000)}/")


def delivered(stack: Stack) -> None:
    for name in ("receiver", "receiver-flaky"):
        until(f"acknowledged deliveries of {name}", lambda: counts(stack, name)["acknowledged"] > 0)
        need(counts(stack, name).get("invalidSignatures", 0) == 0, f"{name}: {counts(stack, name)}")


def scraped(stack: Stack) -> None:
    wanted = {("hookstream-worker", f"{one.address}:{9464 + stack.loopback.moved}") for one in stack.containers["worker"]}
    wanted |= {("hookstream-api", f"{one.address}:{9464 + stack.loopback.moved}") for one in stack.containers["api"]}

    def all_up() -> bool:
        targets = get_json(f"http://{stack.address('prometheus', 9090)}/api/v1/targets")["data"]["activeTargets"]
        found = {(target["labels"]["job"], target["labels"]["instance"]) for target in targets if target["health"] == "up"}
        need(found == wanted, f"up are {sorted(found)} and not {sorted(wanted)}: {[target['lastError'] for target in targets]}")
        return True

    until("every target to be up", all_up)


def evaluated(stack: Stack) -> None:
    written = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())["groups"]
    wanted = sorted(rule["alert"] for group in written for rule in group["rules"])

    def healthy() -> bool:
        groups = get_json(f"http://{stack.address('prometheus', 9090)}/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        need(sorted(rule["name"] for rule in rules) == wanted, f"the rules are {[rule['name'] for rule in rules]}")
        unwell = [f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in rules if rule["health"] != "ok"]
        need(not unwell, "\n".join(unwell))
        return True

    until("every rule to be evaluated", healthy)


def registered(stack: Stack) -> None:
    description = get_json(f"http://{stack.address('api', 8080)}/api/v1/openapi.json")
    need(description["openapi"].startswith("3.1"), f"{description['openapi']}")
    need("<html" in get(f"http://{stack.address('api', 8080)}/api/v1/docs").lower(), "there is no page about the API")


def provisioned(stack: Stack) -> None:
    service = stack.one("grafana").service
    need(stack.one("grafana").image == GRAFANA, service["image"])
    mounts = {volume["target"]: Path(volume["source"]) for volume in service["volumes"]}
    folder = mounts["/etc/grafana/provisioning"]
    # The folders in which Grafana looks for files of each kind.
    need({part.name for part in folder.iterdir()} <= {"datasources", "dashboards", "alerting", "plugins"}, f"{list(folder.iterdir())}")
    sources = [source for file in (folder / "datasources").glob("*.yml") for source in yaml.safe_load(file.read_text())["datasources"]]
    providers = [one for file in (folder / "dashboards").glob("*.yml") for one in yaml.safe_load(file.read_text())["providers"]]
    need(len(sources) == 1 and sources[0]["type"] == "prometheus" and sources[0]["access"] == "proxy", f"{sources}")
    need(len(providers) == 1 and providers[0]["type"] == "file", f"{providers}")
    shown = [(target, source) for target, source in mounts.items() if Path(target).parent == Path(providers[0]["options"]["path"])]
    need(len(shown) == 1, f"mounted where Grafana looks for dashboards: {shown}")
    dashboard = json.loads(shown[0][1].read_text())
    need(dashboard["uid"] and dashboard["title"] and dashboard["panels"], "it is not a dashboard")
    need(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown[0][0], "the first page is another dashboard")
    variable = next(one for one in dashboard["templating"]["list"] if one["type"] == "datasource")
    need(variable["query"] == "prometheus", f"the dashboard asks for a source of the kind {variable['query']}")
    chosen = variable.get("current", {}).get("value")
    need(chosen in (None, "", "default", sources[0]["uid"]) and sources[0]["isDefault"], f"the dashboard asks {chosen}")


def answered(stack: Stack) -> None:
    grafana = stack.one("grafana")
    source = yaml.safe_load((ROOT / "deploy/monitoring/grafana/datasources/prometheus.yml").read_text())["datasources"][0]
    url = grafana.here(source["url"])

    def ask(expression: str) -> list:
        encoded = "".join(f"%{byte:02X}" for byte in expression.encode())
        answer = get_json(f"{url}/api/v1/query?query={encoded}")
        need(answer["status"] == "success", f"{expression}: {answer}")
        return answer["data"]["result"]

    asked = queries()
    for expression in asked.values():
        ask(expression)
    # The bad day of the real-Kafka suite shows that the other panels have something to show; it runs no API.
    panel = next(expression for name, expression in asked.items() if name.startswith("Requests to the registration API "))
    until("requests to the API on the dashboard", lambda: ask(panel))


def stopped(stack: Stack) -> None:
    for name, containers in stack.containers.items():
        for container in containers:
            if container.image == OURS and container.process.code() is None:
                code = container.process.stop(seconds(container.service.get("stop_grace_period", "10s")))
                need(code == 0, f"{container.name} ended with {code}:\n{container.process.tail()}")
