"""Alerts, their tests and pages, the dashboard, and whether every metric they name is a documented one."""

import json
import re
import tempfile

import yaml

from report import ROOT, Report, must, need

MONITORING = ROOT / "deploy/monitoring"
# Labels that Prometheus or its scrape configuration adds, and labels that belong to a kind of metric.
ADDED_LABELS = {"job", "instance", "namespace", "service", "pod", "alertname", "alertstate"}
ADDED_METRICS = {"up": set(), "ALERTS": set()}
# The metrics that other people's programs rely on, with their labels.
PROMISED = """events_total{outcome} attempts_total{outcome,reason} deliveries_total{outcome} attempt_duration_seconds
    delivery_latency_seconds retries_total{tier} retry_lateness_seconds{tier} retry_overdue_seconds{tier} dead_letters_total{reason}
    dropped_total{reason} in_flight_requests webhooks{state} integrations{status} consumer_lag{topic,partition}
    integrations_bootstrap_seconds scheduled_ticks_total{outcome} build_info{version}""".split()


def documented() -> dict:
    """Name to (type, labels) of every metric in docs/metrics.md."""
    found = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            name = cells[0].strip("`")
            need(name not in found, f"docs/metrics.md lists {name} twice")
            need(cells[1] in ("counter", "gauge", "histogram"), f"{name} has the type {cells[1]!r}")
            need(cells[1] != "counter" or name.endswith("_total"), f"the counter {name} does not end in _total")
            found[name] = (cells[1], set(re.findall(r"`([a-z]+)`", cells[2])))
    return found


def rules() -> list:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict:
    return json.loads((MONITORING / "dashboard.json").read_text())


def queries() -> dict:
    """Every query of the dashboard with its variables filled in as Grafana would."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+")
            need("$" not in expression, f"{panel['title']}: a variable is left in {expression}")
            found[f"{panel['title']} {target['refId']}"] = expression
    for annotation in dashboard()["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    return found


def check(report: Report) -> None:
    report.check("promtool accepts the rules", lambda: must("promtool", "check", "rules", "--lint=all", "--lint-fatal", MONITORING / "rules.yml"))
    report.check("promtool accepts the scrape configuration", scrape_configuration)
    report.check("every alert fires in its test", lambda: must("promtool", "test", "rules", "rules_test.yml", cwd=MONITORING))
    report.check("every alert has a test that fires it", every_alert_tested)
    known = report.check("docs/metrics.md can be read", documented) or {}
    for promised in PROMISED:
        report.check(f"hookstream_{promised} is documented", is_documented, promised, known)
    for rule in rules():
        report.check(f"{rule['alert']} says what is wrong and where to read on", annotated, rule)
        report.check(f"{rule['alert']} asks for documented metrics", uses_known, rule["expr"], known)
    for name, expression in queries().items():
        report.check(f"dashboard: {name} asks for documented metrics", uses_known, expression, known)
    report.check("Prometheus can parse every query of the dashboard", parseable)
    report.check("the dashboard's panels do not lie on each other", laid_out)
    report.check("the dashboard shows every metric of the program", all_shown, known)
    report.check("the runbook has no page without an alert", runbook_pages)
    report.check("Grafana finds what it is to load", provisioned)


def scrape_configuration() -> None:
    must("promtool", "check", "config", "--syntax-only", MONITORING / "prometheus.yml")
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in configuration["scrape_configs"]}
    named = set(re.findall(r'job="([^"]+)"', (MONITORING / "rules.yml").read_text()))
    need(named <= jobs, f"the rules name the jobs {named - jobs}, which nothing scrapes")


def every_alert_tested() -> None:
    tests = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    quiet = {case["alertname"] for test in tests for case in test["alert_rule_test"] if not case["exp_alerts"]}
    names = {rule["alert"] for rule in rules()}
    need(names == fired, f"never fired: {names - fired}; unknown: {fired - names}")
    need(names == quiet, f"never seen quiet: {names - quiet}")


def is_documented(promised: str, known: dict) -> None:
    name, _, labels = promised.rstrip("}").partition("{")
    need(f"hookstream_{name}" in known, "it is not in docs/metrics.md")
    need(known[f"hookstream_{name}"][1] == set(labels.split(",")) - {""}, f"its labels are {known[f'hookstream_{name}'][1]}")


def annotated(rule: dict) -> None:
    need(rule["labels"]["severity"] in ("page", "ticket"), f"{rule['labels']}")
    for annotation in ("summary", "description"):
        need(len(rule["annotations"][annotation]) > 15, f"it has no {annotation}")
    need(not rule["annotations"]["summary"].endswith("."), "a summary is a headline without a full stop")
    need(rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}", rule["annotations"]["runbook_url"])
    page = re.search(rf"^### {rule['alert']}\n(.*?)(?=^#|\Z)", (ROOT / "docs/runbook.md").read_text(), re.S | re.M)
    need(page, "the runbook has no page of it")
    for part in ("**Means.**", "**Confirm.**", "**Do.**"):
        need(part in page[1], f"its page in the runbook lacks {part}")


def uses_known(expression: str, known: dict) -> None:
    """Names, labels and the words that labels are compared with are those of docs/metrics.md."""
    text = (ROOT / "docs/metrics.md").read_text()
    names = set(re.findall(r"\b((?:hookstream|process)_[a-z_]+|up|ALERTS)\b(?=\s*[{\[)<>=]|\s|$)", expression))
    need(names, f"no metric found in {expression}")
    allowed = set(ADDED_LABELS)
    for name in names:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base in known and known[base][0] == "histogram":
            need(name != base, f"{name} is a histogram: ask for its _bucket, _sum or _count")
            allowed |= known[base][1] | {"le"}
        elif name in known or name in ADDED_METRICS:
            allowed |= known.get(name, ("", set()))[1]
        else:
            need(False, f"{name} is not in docs/metrics.md")
    for labels in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        used = {label.strip() for label in labels.split(",")} - {""}
        need(used <= allowed, f"{used - allowed} are no labels of {names}")
    for name, selector in re.findall(r"([a-z_A-Z]+)\{([^}]*)\}", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        own = known.get(name, known.get(base, ("", set())))[1] | ADDED_LABELS | {"le"}
        for label, _, value in re.findall(r'([a-z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)"', selector):
            need(label in own, f"{name} has no label {label}")
            if label in ("outcome", "reason", "state", "status", "kind", "tier"):
                need(f"`{value}`" in text, f"docs/metrics.md does not know {label}={value}")


def parseable() -> None:
    group = {"name": "dashboard", "rules": [{"record": f"query:{i}", "expr": expression} for i, expression in enumerate(queries().values())]}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [group]}, file)
        file.flush()
        must("promtool", "check", "rules", file.name)


def laid_out() -> None:
    panels = dashboard()["panels"]
    need(len({panel["id"] for panel in panels}) == len(panels), "two panels have one id")
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        need(place["x"] + place["w"] <= 24, f"{panel['title']} sticks out")
        if panel["type"] != "row":
            need(panel.get("description"), f"{panel['title']} has no description")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                need((x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}")
                taken[x, y] = panel["title"]


def all_shown(known: dict) -> None:
    text = " ".join(queries().values())
    missing = [name for name in known if name.startswith("hookstream_") and name not in text]
    need(not missing, f"not on the dashboard: {missing}")


def runbook_pages() -> None:
    pages = set(re.findall(r"^### (Hookstream\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M))
    names = {rule["alert"] for rule in rules()}
    need(pages == names, f"no alert: {pages - names}; no page: {names - pages}")


def provisioned() -> None:
    source = yaml.safe_load((MONITORING / "grafana/datasources/prometheus.yml").read_text())["datasources"][0]
    variable = next(item for item in dashboard()["templating"]["list"] if item["name"] == "datasource")
    need(variable["current"]["value"] == source["uid"], f"the dashboard asks for {variable['current']} and finds {source['uid']}")
    need(yaml.safe_load((MONITORING / "grafana/dashboards/hookstream.yml").read_text())["providers"], "no provider")
