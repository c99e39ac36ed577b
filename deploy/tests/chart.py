"""The Helm chart: every switch on and off, every option, every refusal, read by Helm and kubeconform."""

import copy
import http.server
import json
import os
import re
import shlex
import shutil
import tempfile
import threading
from pathlib import Path

import yaml

import admission
from options import OPTIONS, variable
from report import ROOT, Report, must, need, run

CHART = ROOT / "deploy/helm/hookstream"
# The hook of objects that an uninstallation makes.
UNINSTALLED = "post-delete"
# The oldest version that the chart accepts, and the newest whose schemas there are.
KUBERNETES = ["1.27.0", "1.37.0"]
BASE = {"kafka": {"brokers": "kafka-0:9092,kafka-1:9092"}, "api": {"tokensSecret": {"name": "tokens"}}}

PEER = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
# A value for each option that is empty unless it is set. A switch without one here is not checked.
SET = {
    "nameOverride": "hooks",
    "fullnameOverride": "crm-hooks",
    "image.tag": "1.2.3",
    "image.digest": "sha256:" + "0123456789abcdef" * 4,
    "image.pullSecrets": ["pull"],
    "kafka.brokers": "kafka:9092",
    "kafka.properties": {"security.protocol": "SASL_SSL", "sasl.username": "hook$(stream)", "socket.keepalive.enable": True},
    "kafka.secretProperties": {"sasl.password": {"name": "kafka-user", "key": "password"}, "ssl.key.password": {"name": "kafka-key", "key": "p"}},
    "kafka.tls.caSecret.name": "kafka-ca",
    "kafka.tls.clientSecret.name": "kafka-client",
    "delivery.maxInFlightPerHost": 100,
    "delivery.giveUpAfter": "36h",
    "delivery.maxQueuedBytes": "128MiB",
    "delivery.deliveryThreads": 2,
    "delivery.allowPrivateNetworks": ["10.0.0.0/8", "fd00:1::/32"],
    "api.tokensSecret.name": "tokens",
    "api.tlsSecret.name": "api-tls",
    "api.service.annotations": {"a": "b"},
    "api.service.port": 8000,
    "console.tokensSecret.name": "console-tokens",
    "console.tokensSecret.key": "readers",
    "console.tlsSecret.name": "console-tls",
    "console.apiUrl": "https://hooks.example:8443",
    "console.kafka.properties": {"sasl.username": "hookstream-console"},
    "console.kafka.secretProperties": {"sasl.password": {"name": "kafka-console", "key": "password"}},
    "console.kafka.clientSecret.name": "kafka-console-client",
    "console.service.annotations": {"a": "b"},
    "console.service.port": 8000,
    "serviceAccount.name": "hooks",
    "serviceAccount.annotations": {"a": "b"},
    "autoscaling.keda.prometheusAddress": "http://prometheus:9090",
    "autoscaling.keda.selector": 'job="hookstream-worker"',
    "autoscaling.keda.authenticationRef": "prometheus",
    "autoscaling.hpa.metrics": [{"type": "External", "external": {"metric": {"name": "lag"}, "target": {"type": "AverageValue", "averageValue": "1000"}}}],
    "networkPolicy.metricsFrom": PEER,
    "networkPolicy.apiFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.consoleFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
    "networkPolicy.receiverPorts": [443, 8443],
    "networkPolicy.kafkaTo": [{"podSelector": {"matchLabels": {"app": "kafka"}}}],
    "monitoring.serviceMonitor.labels": {"release": "prometheus"},
    "monitoring.rules.labels": {"release": "prometheus"},
    "monitoring.rules.runbookBaseUrl": "https://git.example/hookstream/main",
}
for role in ("worker", "api", "console"):
    SET |= {
        f"{role}.podAnnotations": {"a": "b"},
        f"{role}.podLabels": {"team": "crm"},
        f"{role}.nodeSelector": {"disk": "none"},
        f"{role}.tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
        f"{role}.affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "other"}}}}]}},
        f"{role}.priorityClassName": "high",
        f"{role}.extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}],
        f"{role}.extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        f"{role}.extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    }
# Values that must be set together with a switch.
WITH = {
    "autoscaling.keda.enabled": {"autoscaling.keda.prometheusAddress": "http://prometheus:9090"},
    "autoscaling.keda.selector": {"autoscaling.keda.enabled": True, "autoscaling.keda.prometheusAddress": "http://p:9090"},
    "autoscaling.keda.authenticationRef": {"autoscaling.keda.enabled": True, "autoscaling.keda.prometheusAddress": "http://p:9090"},
    "autoscaling.hpa.metrics": {"autoscaling.hpa.enabled": True},
    "monitoring.serviceMonitor.labels": {"monitoring.serviceMonitor.enabled": True},
    "monitoring.rules.labels": {"monitoring.rules.enabled": True},
    "monitoring.rules.runbookBaseUrl": {"monitoring.rules.enabled": True},
    "delivery.drainTimeout": {"worker.terminationGracePeriodSeconds": 90, "api.terminationGracePeriodSeconds": 90},
    "serviceAccount.create": {"serviceAccount.name": "there-already"},
    "networkPolicy.consoleFrom": {"console.enabled": True},
}
for role in ("worker", "api", "console"):
    WITH[f"{role}.extraVolumeMounts"] = {f"{role}.extraVolumes": SET[f"{role}.extraVolumes"]}
for path in [path for path in SET if path.startswith("console.")]:
    WITH[path] = WITH.get(path, {}) | {"console.enabled": True}

# Words that are one of a list, and the others of it.
WORDS = {
    "image.pullPolicy": ["Always", "Never"],
    "delivery.ordering": ["webhook", "none"],
    "delivery.attemptLog": ["all", "off"],
    "logs.format": ["human"],
    "worker.spread.whenUnsatisfiable": ["DoNotSchedule"],
    "api.service.type": ["NodePort", "LoadBalancer"],
    "console.service.type": ["NodePort", "LoadBalancer"],
    "worker.podDisruptionBudget.maxUnavailable": ["25%"],
}

# Properties that the program refuses and that are no value of the chart's.
PROPERTIES_REFUSED = """enable.auto.commit auto.commit.enable enable.auto.offset.store auto.offset.reset enable.idempotence acks request.required.acks
    isolation.level enable.partition.eof transactional.id delivery.report.only.error""".split()

# Values that the chart must refuse, and a part of its message.
REFUSED = [
    ({"kafka.brokers": ""}, "kafka.brokers is empty: name the bootstrap servers"),
    ({"kafka.brokers": "kafka"}, 'kafka.brokers is "kafka": write host:port'),
    ({"kafka.brokers": "PLAINTEXT://kafka:9092"}, "without spaces or a scheme"),
    ({"kafka.brokers": "kafka-0:9092,kafka-1:90920"}, 'kafka.brokers holds "kafka-1:90920": a port is a number from 1 to 65535'),
    ({"kafka.group": "a group"}, 'kafka.group is "a group"'),
    ({"kafka.properties": {"sasl.password": "hunter2"}}, "kafka.properties holds sasl.password in plain sight"),
    ({"kafka.properties": {"client.rack": "a\nb"}}, "kafka.properties.client.rack spans several lines"),
    ({"kafka.properties": {"group.id": "x"}}, "the property group.id has a value of its own"),
    ({"kafka.properties": {"Client Rack": "x"}}, '"Client Rack" is not a name of a librdkafka property'),
    ({"kafka.properties": {"client-rack": "x"}}, '"client-rack" is not a name of a librdkafka property'),
    *[({"kafka.properties": {key: "1"}}, f"the property {key} can't be set: ") for key in PROPERTIES_REFUSED],
    ({"kafka.secretProperties": {"acks": {"name": "s", "key": "k"}}}, "the property acks can't be set: it is always all"),
    ({"kafka.properties": {"a.b": "x"}, "kafka.secretProperties": {"a.b": {"name": "s", "key": "k"}}}, "a.b stands in kafka.properties and in kafka.secretProperties"),
    ({"kafka.secretProperties": {"sasl.password": {"name": "s"}}}, "secretProperties"),
    ({"kafka.tls.caSecret.name": "My_CA"}, 'kafka.tls.caSecret.name is "My_CA": a name in Kubernetes has small letters'),
    ({"topics.events": "no spaces please"}, 'topics.events is "no spaces please": a topic\'s name has'),
    ({"topics.health": "crm.object-events"}, 'topics.events and topics.health are both "crm.object-events"'),
    ({"topics.apply.partitions": 0}, "partitions"),
    ({"delivery.requestTimeout": "10 seconds"}, 'delivery.requestTimeout is "10 seconds": a duration is written 250ms, 30s, 5m or 1h'),
    ({"delivery.requestTimeout": 10}, "requestTimeout"),
    ({"delivery.requestTimeout": "30s"}, "delivery.drainTimeout (25s) is shorter than delivery.requestTimeout (30s)"),
    ({"delivery.connectTimeout": "11s"}, "delivery.connectTimeout (11s) is longer than delivery.requestTimeout (10s)"),
    ({"delivery.drainTimeout": "36s"}, "worker.terminationGracePeriodSeconds (75) leaves less than 40 s beyond delivery.drainTimeout (36s)"),
    ({"api.terminationGracePeriodSeconds": 64}, "api.terminationGracePeriodSeconds (64) leaves less than 40 s beyond delivery.drainTimeout (25s)"),
    ({"delivery.drainTimeout": "241s"}, "delivery.drainTimeout is 241s: at most 4m"),
    ({"delivery.drainTimeout": "9s"}, "delivery.drainTimeout (9s) is shorter than delivery.requestTimeout (10s)"),
    ({"delivery.giveUpAfter": "1h"}, "delivery.giveUpAfter (1h) is shorter than the whole delivery.retrySchedule"),
    ({"delivery.giveUpAfter": "1d"}, 'delivery.giveUpAfter is "1d": a duration'),
    ({"delivery.giveUpAfter": "16801h"}, "delivery.giveUpAfter is 16801h: at most 16800h"),
    ({"delivery.retrySchedule": ""}, 'delivery.retrySchedule holds ""'),
    ({"delivery.retrySchedule": "30s,soon"}, 'delivery.retrySchedule holds "soon"'),
    ({"delivery.retrySchedule": "30s,169h"}, 'delivery.retrySchedule holds "169h": a delay is at most 168h'),
    ({"delivery.retrySchedule": ",".join(["1s"] * 101)}, "delivery.retrySchedule has 101 delays: at most 100"),
    ({"health.errorsWindow": "999ms"}, "health.errorsWindow is 999ms: at least 1s"),
    ({"health.suspendAfter": "169h"}, "health.suspendAfter is 169h: at most 168h"),
    ({"delivery.ordering": "strict"}, "'entity', 'webhook', 'none'"),
    ({"delivery.maxInFlightPerWebhook": 2000}, "delivery.maxInFlightPerWebhook (2000) is more than delivery.maxInFlight (1024)"),
    ({"delivery.maxInFlightPerHost": 2000}, "delivery.maxInFlightPerHost (2000) is more than delivery.maxInFlight (1024)"),
    ({"delivery.maxInFlight": 200000}, "maxInFlight"),
    ({"delivery.maxQueuedBytes": 1048575}, "delivery.maxQueuedBytes is 1048575: at least 1MiB"),
    ({"delivery.maxQueuedBytes": "1000"}, "delivery.maxQueuedBytes is 1000: at least 1MiB"),
    ({"delivery.maxQueuedBytes": "1023KiB"}, "delivery.maxQueuedBytes is 1023KiB: at least 1MiB"),
    ({"delivery.maxQueuedBytes": "1025GiB"}, "delivery.maxQueuedBytes is 1025GiB: at most 1024GiB"),
    ({"delivery.maxQueuedBytes": "lots"}, 'delivery.maxQueuedBytes is "lots"'),
    ({"delivery.allowPrivateNetworks": ["10.0.0.1"]}, 'delivery.allowPrivateNetworks holds "10.0.0.1": write address ranges'),
    ({"delivery.attemptLog": "some"}, "'all', 'failures', 'off'"),
    *[({"logs.level": level}, f'logs.level is "{level}": write error, warn, info, debug, trace or off') for level in ("loud", "info,", "3", "=info", "hookstream=loud", "info,hyper", "[", "a=b=c", "info, a=debug")],
    ({"autoscaling.keda.cooldownPeriod": 600}, "cooldownPeriod"),
    ({"api.tokensSecret.name": ""}, "api.tokensSecret.name is empty"),
    ({"api.port": 9464}, "api.port and admin.port are both 9464"),
    ({"api.replicas": 2}, "replicas"),
    ({"console.enabled": True, "console.port": 9464}, "console.port and admin.port are both 9464"),
    ({"console.enabled": True, "api.enabled": False, "api.tokensSecret.name": ""}, "console.tokensSecret.name and api.tokensSecret.name are both empty"),
    ({"console.enabled": True, "console.apiUrl": "hookstream-api:8080"}, 'console.apiUrl is "hookstream-api:8080": write the API\'s URL'),
    ({"console.enabled": True, "console.kafka.properties": {"sasl.password": "hunter2"}}, "console.kafka.properties holds sasl.password in plain sight"),
    ({"console.enabled": True, "console.kafka.properties": {"group.id": "x"}}, "the property group.id has a value of its own"),
    ({"console.enabled": True, "console.kafka.properties": {"a.b": "x"}, "console.kafka.secretProperties": {"a.b": {"name": "s", "key": "k"}}}, "a.b stands in console.kafka.properties and in console.kafka.secretProperties"),
    ({"console.enabled": True, "console.kafka.clientSecret.name": "My_Cert"}, 'console.kafka.clientSecret.name is "My_Cert": a name in Kubernetes has small letters'),
    ({"console.extraEnv": [{"name": "HOOKSTREAM_GROUP", "value": "x"}]}, "console.extraEnv sets HOOKSTREAM_GROUP"),
    ({"admin.port": 70000}, "port"),
    ({"autoscaling.keda.enabled": True}, 'autoscaling.keda.prometheusAddress is "": KEDA asks Prometheus what is late'),
    ({"autoscaling.keda.enabled": True, "autoscaling.keda.prometheusAddress": "http://p:9090", "autoscaling.hpa.enabled": True}, "two autoscalers would pull at one deployment"),
    ({"autoscaling.minReplicas": 20}, "autoscaling.minReplicas (20) is more than autoscaling.maxReplicas (12)"),
    ({"worker.replicas": 0}, "replicas"),
    ({"worker.rollingUpdate.maxUnavailable": 0}, "a rollout could not take a single step"),
    ({"worker.extraEnv": [{"name": "HOOKSTREAM_GROUP", "value": "x"}]}, "worker.extraEnv sets HOOKSTREAM_GROUP"),
    ({"image.digest": "sha256:abc"}, 'image.digest is "sha256:abc"'),
    ({"image.tag": "a tag"}, 'image.tag is "a tag"'),
    ({"monitoring.rules.runbookBaseUrl": "wiki"}, 'monitoring.rules.runbookBaseUrl is "wiki"'),
    ({"monitoring.serviceMonitor.interval": "5s"}, "monitoring.serviceMonitor.scrapeTimeout (10s) is longer than its interval (5s)"),
    ({"wroker.replicas": 3}, "wroker"),
]


def put(values: dict, path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def values_of(changes: dict) -> dict:
    values = copy.deepcopy(BASE)
    for path, value in changes.items():
        for also, its in WITH.get(path, {}).items():
            put(values, also, its)
    for path, value in changes.items():
        put(values, path, value)
    return values


def template(values: dict, *arguments: str):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return run(os.environ["HELM_BIN"], "template", "rel", CHART, "--namespace", "crm", "--kube-version", KUBERNETES[-1], "-f", file.name, *arguments)


def render(changes: dict) -> str:
    done = template(values_of(changes))
    need(done.returncode == 0, f"with {changes}:\n{done.stderr}")
    return done.stdout


def objects(text: str) -> dict:
    """The rendered objects by kind and name, but those that an uninstallation makes."""
    return keyed(item for item in yaml.safe_load_all(text) if item and hook(item) != UNINSTALLED)


def uninstalling(text: str) -> dict:
    """The objects that an uninstallation makes, by kind and name."""
    return keyed(item for item in yaml.safe_load_all(text) if item and hook(item) == UNINSTALLED)


def hook(item: dict) -> object:
    return item["metadata"].get("annotations", {}).get("helm.sh/hook")


def keyed(items) -> dict:
    found = {}
    for item in items:
        key = (item["kind"], item["metadata"]["name"])
        need(key not in found, f"{key} is rendered twice")
        found[key] = item
    return found


def leaves(values: dict, path: str = ""):
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value and here != "monitoring.dashboard.labels":
            yield from leaves(value, here)
        else:
            yield here, value


def switches() -> dict:
    """Every change that switches something: booleans turned, empty values set, words exchanged."""
    changes = {"as it is": {}}
    for path, value in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        if isinstance(value, bool):
            changes[f"{path}={str(not value).lower()}"] = {path: not value}
        elif value in ("", None, [], {}):
            need(path in SET, f"values.yaml has the empty value {path} and chart.py has no value to set it to")
            changes[f"{path} set"] = {path: SET[path]}
    for path, words in WORDS.items():
        for word in words:
            changes[f"{path}={word}"] = {path: word}
    off = {path: False for path, value in leaves(yaml.safe_load((CHART / "values.yaml").read_text())) if isinstance(value, bool)}
    everything = dict(SET) | {path: path != "autoscaling.hpa.enabled" for path in off}
    changes["everything off"] = off
    changes["everything on, KEDA"] = everything
    changes["everything on, HPA"] = everything | {"autoscaling.keda.enabled": False, "autoscaling.hpa.enabled": True}
    return changes


def check(report: Report) -> None:
    report.check("helm lint finds nothing", lint)
    for page in ("deploy/helm/hookstream/README.md", "docs/operations.md"):
        report.check(f"the commands of {page} render", commands_render, ROOT / page)
    changes = report.check("every switch has a value to be checked with", switches) or {}
    renderings = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, change in changes.items():
            text = report.check(f"renders: {name}", render, change)
            if text is not None:
                renderings[name] = text
                report.check(f"is safe to run: {name}", safe, text)
                (Path(folder) / f"{len(list(Path(folder).iterdir())):03}.yaml").write_text(f"# {name}\n{text}")
        for version in KUBERNETES:
            report.check(f"Kubernetes {version} knows every field of {len(changes)} renderings", kubeconform, version, folder)
    report.check("kubeconform refuses an unknown field", kubeconform_is_strict)
    admission.check(report, renderings)
    for option, path, value, text, roles in OPTIONS:
        report.check(f"--{option} can be set by {path}", sets_option, option, path, value, text, roles.split())
    for change, sentence in REFUSED:
        report.check(f"refuses {change}", refuses, change, sentence)
    for level in ("WARN", "off", "info,hookstream::http=debug", "hookstream[delivery{attempt}]=trace,warn"):
        report.check(f"accepts the log level {level}", accepts, {"logs.level": level})
    for bytes_ in (1048576, "1MiB", "1048576", "1024GiB"):
        report.check(f"accepts maxQueuedBytes {bytes_!r}", accepts, {"delivery.maxQueuedBytes": bytes_})
    report.check("accepts the longest drain", accepts, {"delivery.drainTimeout": "4m", "worker.terminationGracePeriodSeconds": 280, "api.terminationGracePeriodSeconds": 280})
    report.check("refuses the properties that the program refuses", the_programs_properties)
    report.check("all mistakes are reported at once", all_at_once)
    report.check("secrets come by reference only", secrets_by_reference)
    report.check("KEDA scales on what is late and on no retry topic's lag", keda_queries)
    report.check("the autoscaler owns the number of workers", autoscaler_owns_replicas)
    report.check("an upgrade keeps the autoscaler's number of workers", upgrade_keeps_replicas)
    report.check("there is one API, replaced and not joined", one_api)
    report.check("receivers in private ranges are out of reach unless allowed", egress)
    report.check("receivers are reached on every port unless ports are named", receiver_ports)
    report.check("Kafka is reached on the ports of its brokers", kafka_ports)
    report.check("the job's policy is there before the job", policy_before_job)
    report.check("an uninstallation takes what stays of an installation's hooks", uninstalls_hooks)
    report.check("a mistake in the options fails the topics' job at once", job_fails_fast)
    report.check("helm test asks with the release's own connection, behind the policy of the topics", helm_test)
    report.check("the API's port is what its clients expect", api_port)
    report.check("the notes wait for every deployment and name the API's port", notes)
    report.check("the rules are valid as the operator gets them", rules)
    report.check("without an API no rule misses it", rules_without_api)
    report.check("the dashboard arrives whole", dashboard)
    report.check("without the switch there is no console", no_console)
    report.check("the console shares the API's tokens unless it has its own", console_tokens)
    report.check("the console connects with rights of its own, which nothing else gets", console_kafka)
    report.check("the console reaches DNS, Kafka and the API, and no receiver", console_network)
    report.check("the console's actions go to the release's API, or where apiUrl says", console_api)
    report.check("no file of the chart is a link, which Helm would name at every command", no_links)
    report.check("metrics are found under the job names that the rules know", job_names)


def lint() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(BASE, file)
        file.flush()
        must(os.environ["HELM_BIN"], "lint", "--strict", "--kube-version", KUBERNETES[-1], "-f", file.name, CHART)


def commands_render(page: Path) -> None:
    """Each `helm install` and `helm upgrade` as it stands there, rendered; an upgrade on top of the installation before it."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    commands = [shlex.split(line) for line in re.findall(r"^helm (?:install|upgrade) (.*)$", text, re.M)]
    need(commands, "there is no command")
    before = []
    for name, chart, *rest in commands:
        reused = before if "--reset-then-reuse-values" in rest else []
        given = [word for word in rest if word != "--reset-then-reuse-values"]
        must(os.environ["HELM_BIN"], "template", name, ROOT / chart, "--kube-version", KUBERNETES[-1], *reused, *given)
        before = [*reused, *given]


def kubeconform(version: str, folder: str) -> None:
    schemas = os.environ["SCHEMAS"] + "/{{.NormalizedKubernetesVersion}}-local-strict/{{.ResourceKind}}{{.KindSuffix}}.json"
    ours = str(ROOT / "deploy/tests/schemas/{{.ResourceKind}}.json")
    done = run(
        os.environ["KUBECONFORM_BIN"], "-strict", "-summary", "-output", "json", "-kubernetes-version", version,
        "-schema-location", schemas, "-schema-location", ours, folder, seconds=300,
    )
    result = json.loads(done.stdout)
    bad = [f"{item['filename']}: {item['kind']} {item['name']}: {item['msg']}" for item in result.get("resources") or []]
    need(done.returncode == 0 and not bad, "\n".join(bad[:20]) or done.stderr)
    need(result["summary"]["valid"] > 500 and not result["summary"]["skipped"], f"{result['summary']}")


def kubeconform_is_strict() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.yaml").write_text(render({}).replace("clusterIP: None", "clusterIp: None"))
        try:
            kubeconform(KUBERNETES[-1], folder)
        except Exception as failure:
            need("clusterIp" in str(failure), f"it failed for another reason: {failure}")
            return
        need(False, "a Service with `clusterIp` was taken for valid")


def pods(found: dict) -> dict:
    of_template = {
        name.rsplit("-", 1)[-1]: item["spec"]["template"]["spec"]
        for (kind, name), item in found.items() if kind in ("Deployment", "Job")
    }
    return of_template | {name.rsplit("-", 1)[-1]: item["spec"] for (kind, name), item in found.items() if kind == "Pod"}


def safe(text: str) -> None:
    found = objects(text)
    there = {kind for kind, _ in found}
    need({"Deployment", "Service"} <= there, f"only {there}")
    for role, pod in pods(found).items():
        need(pod["securityContext"]["runAsNonRoot"] is True, f"{role} may run as root")
        need(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{role} has no seccomp profile")
        need(pod["automountServiceAccountToken"] is False, f"{role} gets a token of Kubernetes")
        need(pod["enableServiceLinks"] is False, f"{role} gets variables of service links")
        for container in pod["containers"]:
            security = container["securityContext"]
            need(security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False, f"{role}: {security}")
            need(security["capabilities"] == {"drop": ["ALL"]}, f"{role}: {security}")
            need("memory" in container["resources"]["limits"], f"{role} has no limit of memory")
            names = [item["name"] for item in container["env"]]
            need(len(names) == len(set(names)), f"{role} sets a variable twice: {names}")
            mounted = {item["name"] for item in container.get("volumeMounts") or []}
            volumes = {item["name"] for item in pod.get("volumes") or []}
            need(mounted <= volumes, f"{role} mounts {mounted - volumes}, which is no volume")
            if role not in ("topics", "test"):
                need({"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), f"{role} lacks a probe")
                need(container["readinessProbe"]["httpGet"]["path"] == "/readyz", f"{role}: {container['readinessProbe']}")
    # Every selector finds a pod.
    # The topics' job and `helm test` are one kind of pod to them.
    labels = [item["spec"]["template"]["metadata"]["labels"] for (kind, _), item in found.items() if kind in ("Deployment", "Job")]
    if "Job" not in there:
        labels += [item["metadata"]["labels"] for (kind, _), item in found.items() if kind == "Pod"]
    for (kind, name), item in found.items():
        selector = {"Service": lambda s: s["selector"], "NetworkPolicy": lambda s: s["podSelector"]["matchLabels"], "PodDisruptionBudget": lambda s: s["selector"]["matchLabels"], "Deployment": lambda s: s["selector"]["matchLabels"]}.get(kind)
        if selector:
            wanted = selector(item["spec"]).items()
            need(sum(wanted <= label.items() for label in labels) == 1, f"{kind} {name} selects not exactly one kind of pod")
    account = {name for kind, name in found if kind == "ServiceAccount"}
    for role in ("worker", "api", "console"):
        if role in pods(found) and account:
            need(pods(found)[role]["serviceAccountName"] in account, f"{role} runs under another account")


def environment(found: dict, role: str) -> dict:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in pods(found)[role]["containers"][0]["env"]}


def sets_option(option: str, path: str, value: object, text: str, roles: list) -> None:
    found = objects(render({"console.enabled": True, path: value}))
    for role in ("worker", "api", "topics", "console"):
        got = environment(found, role).get(variable(option))
        if role in roles:
            need(got == text, f"{role} has {variable(option)}={got!r} and not {text!r}")
        else:
            need(got is None, f"{role} has no use for {variable(option)}")


def refuses(change: dict, sentence: str) -> None:
    values = copy.deepcopy(BASE)
    for path, value in change.items():
        put(values, path, value)
    done = template(values)
    need(done.returncode != 0, "it was rendered")
    need(sentence in done.stderr, f"the text does not say {sentence!r}:\n{done.stderr}")
    need("hunter2" not in done.stderr, "the text repeats a secret")
    need("nil pointer" not in done.stderr and "wrong type" not in done.stderr, f"not a sentence:\n{done.stderr}")


def accepts(change: dict) -> None:
    render(change)


def the_programs_properties() -> None:
    """The list is the program's own."""
    text = (ROOT / "src/settings/values.rs").read_text()
    table = re.search(r"PROPERTIES_REFUSED[^=]*= \[(.*?)^\];", text, re.S | re.M)
    there = {key for keys in re.findall(r"&\[([^\]]*)\]", table[1]) for key in re.findall(r'"([^"]+)"', keys)}
    listed = {*PROPERTIES_REFUSED, "bootstrap.servers", "metadata.broker.list", "group.id"}
    need(there == listed, f"only the program refuses {there - listed}; only this file {listed - there}")


def all_at_once() -> None:
    done = template({})
    need(done.returncode != 0, "it was rendered without brokers")
    for sentence in ("kafka.brokers is empty", "api.tokensSecret.name is empty"):
        need(sentence in done.stderr, done.stderr)


def secrets_by_reference() -> None:
    found = objects(render({path: SET[path] for path in ("kafka.properties", "kafka.secretProperties", "kafka.tls.caSecret.name", "kafka.tls.clientSecret.name")}))
    need("Secret" not in {kind for kind, _ in found}, "the chart makes a secret")
    for role in ("worker", "api", "topics"):
        env = environment(found, role)
        need(env["KAFKA_SECRET_0"] == {"secretKeyRef": {"name": "kafka-user", "key": "password"}}, f"{env}")
        lines = env["HOOKSTREAM_KAFKA_PROPERTY"].split("\n")
        for line in ("sasl.password=$(KAFKA_SECRET_0)", "ssl.key.password=$(KAFKA_SECRET_1)", "sasl.username=hook$$(stream)", "security.protocol=SASL_SSL", "socket.keepalive.enable=true", "ssl.ca.location=/etc/hookstream/kafka-ca/ca.crt", "ssl.key.location=/etc/hookstream/kafka-client/tls.key"):
            need(line in lines, f"{role} lacks {line}: {lines}")
        # Kubernetes substitutes only variables that are defined before.
        names = list(env)
        need(names.index("KAFKA_SECRET_1") < names.index("HOOKSTREAM_KAFKA_PROPERTY"), f"{names}")
        mounts = {item["mountPath"] for item in pods(found)[role]["containers"][0]["volumeMounts"]}
        need({"/etc/hookstream/kafka-ca", "/etc/hookstream/kafka-client"} <= mounts, f"{role}: {mounts}")


def keda_queries() -> None:
    found = objects(render({"autoscaling.keda.enabled": True, "topics.events": "other.events"}))
    spec = found["ScaledObject", "rel-hookstream-worker"]["spec"]
    queries = [trigger["metadata"]["query"] for trigger in spec["triggers"]]
    need(queries == [
        'sum(max by (partition) (hookstream_consumer_lag{topic="other.events",namespace="crm"}))',
        'max(hookstream_retry_overdue_seconds{namespace="crm"})',
    ], f"{queries}")
    need(spec["scaleTargetRef"]["name"] == "rel-hookstream-worker", f"{spec}")


def autoscaler_owns_replicas() -> None:
    for switch in ("autoscaling.keda.enabled", "autoscaling.hpa.enabled"):
        spec = objects(render({switch: True, "worker.replicas": 5, "autoscaling.minReplicas": 3}))["Deployment", "rel-hookstream-worker"]["spec"]
        need(spec["replicas"] == 3, f"{switch}: {spec['replicas']} replicas, without a cluster to ask")
    need(objects(render({}))["Deployment", "rel-hookstream-worker"]["spec"]["replicas"] == 2, "replicas are gone")


class Cluster(http.server.BaseHTTPRequestHandler):
    """As much of Kubernetes' API as Helm needs to look up one Deployment, of seven replicas."""

    ANSWERS = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}]},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        "/apis/apps/v1": {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [{"name": "deployments", "singularName": "", "namespaced": True, "kind": "Deployment", "verbs": ["get"]}]},
        "/apis/apps/v1/namespaces/crm/deployments/rel-hookstream-worker": {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "rel-hookstream-worker", "namespace": "crm"}, "spec": {"replicas": 7}},
    }

    def do_GET(self):
        answer = self.ANSWERS.get(self.path.partition("?")[0])
        body = json.dumps(answer or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def upgrade_keeps_replicas() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for change, replicas in (({"autoscaling.hpa.enabled": True}, 7), ({"autoscaling.keda.enabled": True}, 7), ({}, 2)):
            file.seek(0)
            file.truncate()
            yaml.safe_dump(values_of(change), file)
            file.flush()
            text = must(
                os.environ["HELM_BIN"], "template", "rel", CHART, "--namespace", "crm", "-f", file.name, "--dry-run=server",
                "--kube-version", KUBERNETES[-1], "--disable-openapi-validation", "--kube-apiserver", f"http://127.0.0.1:{server.server_port}",
                env=os.environ | {"KUBECONFIG": os.devnull},
            )
            got = objects(text)["Deployment", "rel-hookstream-worker"]["spec"]["replicas"]
            need(got == replicas, f"with {change} {got} replicas")
        server.shutdown()


def one_api() -> None:
    spec = objects(render({}))["Deployment", "rel-hookstream-api"]["spec"]
    need(spec["replicas"] == 1 and spec["strategy"] == {"type": "Recreate"}, f"{spec['replicas']} {spec['strategy']}")


def egress() -> None:
    def blocks(change):
        spec = objects(render(change))["NetworkPolicy", "rel-hookstream-worker"]["spec"]
        return [peer["ipBlock"] for rule in spec["egress"] for peer in rule.get("to") or [] if "ipBlock" in peer]
    for cidr in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10"):
        need(cidr in blocks({})[0]["except"], f"{cidr} can be reached")
    need({"cidr": "10.9.0.0/16"} in blocks({"delivery.allowPrivateNetworks": ["10.9.0.0/16"]}), "an allowed range cannot be reached")


def ports_to_receivers(change: dict) -> list:
    for role in ("worker", "api"):
        spec = objects(render(change))["NetworkPolicy", f"rel-hookstream-{role}"]["spec"]
        (rule,) = [rule for rule in spec["egress"] if any("ipBlock" in peer for peer in rule.get("to") or [])]
    return rule["ports"]


def receiver_ports() -> None:
    need(ports_to_receivers({}) == [{"protocol": "TCP"}], f"{ports_to_receivers({})}")
    got = ports_to_receivers({"networkPolicy.receiverPorts": [443, 8443]})
    need(got == [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 8443}], f"{got}")


def kafka_ports() -> None:
    for change, ports in (
        ({}, [9092, 9093, 9094]),
        ({"kafka.brokers": "b-1.msk:9096,b-2.msk:9096,[fd00::1]:19092"}, [9096, 19092, 9092, 9093, 9094]),
        ({"kafka.brokers": "b-1.msk:9096", "networkPolicy.kafkaPorts": []}, [9096]),
    ):
        found = objects(render(change))
        for role in ("worker", "api", "topics"):
            egress = found["NetworkPolicy", f"rel-hookstream-{role}"]["spec"]["egress"]
            got = [port["port"] for port in egress[1]["ports"]]
            need(got == ports, f"{role} with {change}: {got}")


def policy_before_job() -> None:
    found = objects(render({}))
    notes = {kind: found[kind, "rel-hookstream-topics"]["metadata"]["annotations"] for kind in ("NetworkPolicy", "Job")}
    need(len({note["helm.sh/hook"] for note in notes.values()}) == 1, f"{notes}")
    need(int(notes["NetworkPolicy"]["helm.sh/hook-weight"]) < int(notes["Job"].get("helm.sh/hook-weight", 0)), f"{notes}")
    # A policy has succeeded as soon as it is there: deleted with success it could be gone before the job has run.
    need(notes["NetworkPolicy"]["helm.sh/hook-delete-policy"] == "before-hook-creation", f"{notes}")
    for role in ("worker", "api"):
        need("annotations" not in found["NetworkPolicy", f"rel-hookstream-{role}"]["metadata"], f"{role}'s policy is a hook")


def uninstalls_hooks() -> None:
    text = render({})
    found, taking = objects(text), uninstalling(text)
    left = {key for key, item in found.items() if hook(item) == "pre-install,pre-upgrade"}
    need(left == taking.keys() == {("NetworkPolicy", "rel-hookstream-topics"), ("Job", "rel-hookstream-topics")}, f"{left} stay, {taking.keys()} take")
    for item in taking.values():
        # The first of these removes what has the same name, the others the object itself.
        policies = set(item["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(","))
        need(policies == {"before-hook-creation", "hook-succeeded", "hook-failed"}, f"{policies}")
    # A job that starts no pod is complete at once, also where no image can be fetched.
    spec = taking["Job", "rel-hookstream-topics"]["spec"]
    need((spec["completions"], spec["parallelism"]) == (0, 0), f"{spec}")
    need(not uninstalling(render({"topics.apply.enabled": False, "networkPolicy.enabled": False})), "it takes what is not there")


def job_fails_fast() -> None:
    spec = objects(render({}))["Job", "rel-hookstream-topics"]["spec"]
    [rule] = spec["podFailurePolicy"]["rules"]
    container = spec["template"]["spec"]["containers"][0]["name"]
    need(rule == {"action": "FailJob", "onExitCodes": {"containerName": container, "operator": "In", "values": [2]}, "onPodConditions": []}, f"{rule}")
    need((spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (2, 120, 86400), f"{spec}")


def helm_test() -> None:
    for change in ({}, {"topics.apply.enabled": False}):
        found = objects(render({"networkPolicy.enabled": True} | change))
        pod = found["Pod", "rel-hookstream-test"]
        need(pod["metadata"]["annotations"]["helm.sh/hook"] == "test", f"{pod['metadata']}")
        need(pod["spec"]["containers"][0]["args"] == ["topics", "plan"], f"{pod['spec']}")
        selected = found["NetworkPolicy", "rel-hookstream-topics"]["spec"]["podSelector"]["matchLabels"]
        need(selected.items() <= pod["metadata"]["labels"].items(), f"{selected} does not select {pod['metadata']['labels']}")


def api_port() -> None:
    for change, port in (({}, 80), ({"api.tlsSecret.name": "tls"}, 443), ({"api.service.port": 8000, "api.tlsSecret.name": "tls"}, 8000)):
        [service] = objects(render(change))["Service", "rel-hookstream-api"]["spec"]["ports"]
        need(service["port"] == port, f"{change}: {service}")


def notes_of(change: dict) -> str:
    """The notes at the end of an installation. `helm template` leaves it out, so a copy of the chart puts it into an object."""
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder) / "hookstream"
        shutil.copytree(CHART, chart)
        text = '{{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}'
        (chart / "templates/said.yaml").write_text(f"kind: ConfigMap\nmetadata: {{ name: said }}\ndata: {{ text: {text} }}\n")
        (Path(folder) / "values.yaml").write_text(yaml.safe_dump(values_of(change)))
        rendered = must(os.environ["HELM_BIN"], "template", "rel", chart, "--namespace", "crm", "--kube-version", KUBERNETES[-1], "-f", f"{folder}/values.yaml")
    return objects(rendered)["ConfigMap", "said"]["data"]["text"]


def notes() -> None:
    for change in ({}, {"console.enabled": True}, {"api.enabled": False}):
        said, found = notes_of(change), objects(render(change))
        waited = set(re.findall(r"rollout status deployment/(\S+)", said))
        there = {name for kind, name in found if kind == "Deployment"}
        need(waited == there, f"with {change} it waits for {waited} of {there}")
        need("helm test rel --namespace crm" in said and "a group of its own" in said, said)
    for change, port in (({}, "port 80, without TLS"), ({"api.tlsSecret.name": "tls"}, "port 443.")):
        need(port in notes_of(change), f"{port}: {notes_of(change)}")


def rules() -> None:
    found = objects(render({"monitoring.rules.enabled": True, "topics.events": "other.events", "monitoring.rules.runbookBaseUrl": "https://git.example/hookstream/main"}))
    spec = found["PrometheusRule", "rel-hookstream"]["spec"]
    text = yaml.safe_dump(spec)
    need("other.events" in text and "crm.object-events" not in text, "the events topic was not put in")
    first = spec["groups"][0]["rules"][0]["annotations"]["runbook_url"]
    need(first == "https://git.example/hookstream/main/docs/runbook.md#hookstreamnoworker", first)
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(text)
        file.flush()
        must("promtool", "check", "rules", file.name)


def alerts(change: dict) -> set:
    found = objects(render({"monitoring.rules.enabled": True} | change))
    return {rule["alert"] for group in found["PrometheusRule", "rel-hookstream"]["spec"]["groups"] for rule in group["rules"] if "alert" in rule}


def rules_without_api() -> None:
    missing = alerts({}) - alerts({"api.enabled": False})
    need(missing == {"HookstreamApiDown"}, f"without the API {missing} are left out")


def dashboard() -> None:
    found = objects(render({"monitoring.dashboard.enabled": True}))
    data = found["ConfigMap", "rel-hookstream-dashboard"]["data"]["hookstream.json"]
    need(json.loads(data) == json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text()), "it is another dashboard")


CONSOLE = "rel-hookstream-console"


def no_console() -> None:
    names = {name for _, name in objects(render({}))}
    need(not any("console" in name for name in names), f"{names}")
    found = objects(render({"console.enabled": True, "console.replicas": 2}))
    need(found["Deployment", CONSOLE]["spec"]["replicas"] == 2, "it has another number of replicas")
    need(pods(found)["console"]["containers"][0]["args"] == ["console"], "it runs something else")
    for change, port in (({}, 80), ({"console.tlsSecret.name": "tls"}, 443), ({"console.service.port": 8000}, 8000)):
        [service] = objects(render({"console.enabled": True} | change))["Service", CONSOLE]["spec"]["ports"]
        need((service["port"], service["targetPort"]) == (port, "console"), f"{change}: {service}")


def console_tokens() -> None:
    for change, secret, key in (
        ({}, "tokens", "tokens"),
        ({"api.tokensSecret.key": "t"}, "tokens", "t"),
        ({"console.tokensSecret.name": "readers", "console.tokensSecret.key": "r"}, "readers", "r"),
        ({"api.enabled": False, "api.tokensSecret.name": "", "console.tokensSecret.name": "readers"}, "readers", "tokens"),
    ):
        found = objects(render({"console.enabled": True} | change))
        [volume] = [item for item in pods(found)["console"]["volumes"] if item["name"] == "tokens"]
        need(volume["secret"]["secretName"] == secret, f"{change}: {volume}")
        got = environment(found, "console")["HOOKSTREAM_API_TOKENS_FILE"]
        need(got == f"/etc/hookstream/tokens/{key}", f"{change}: {got}")


def console_kafka() -> None:
    shared = {"kafka.properties": SET["kafka.properties"], "kafka.secretProperties": SET["kafka.secretProperties"], "kafka.tls.clientSecret.name": "kafka-client"}
    own = {path: SET[path] for path in SET if path.startswith("console.kafka.")}
    for change, user, secret, client in ((shared, "hook$$(stream)", "kafka-user", "kafka-client"), (shared | own, "hookstream-console", "kafka-console", "kafka-console-client")):
        found = objects(render({"console.enabled": True} | change))
        env = environment(found, "console")
        need(f"sasl.username={user}" in env["HOOKSTREAM_KAFKA_PROPERTY"].split("\n"), f"{env}")
        need("security.protocol=SASL_SSL" in env["HOOKSTREAM_KAFKA_PROPERTY"].split("\n"), f"{env}")
        need(env["KAFKA_SECRET_0"]["secretKeyRef"]["name"] == secret, f"{env}")
        [volume] = [item for item in pods(found)["console"]["volumes"] if item["name"] == "kafka-client"]
        need(volume["secret"]["secretName"] == client, f"{volume}")
        for role in ("worker", "api", "topics"):
            need("sasl.username=hook$$(stream)" in environment(found, role)["HOOKSTREAM_KAFKA_PROPERTY"].split("\n"), f"{role} got the console's rights")


def console_network() -> None:
    def policy(change):
        return objects(render({"console.enabled": True} | change))["NetworkPolicy", CONSOLE]["spec"]
    spec = policy({})
    need([rule["ports"][0]["port"] for rule in spec["ingress"]] == ["admin", "console"], f"{spec['ingress']}")
    need(not any("ipBlock" in peer for rule in spec["egress"] for peer in rule.get("to") or []), "receivers can be reached")
    to_api = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "hookstream", "app.kubernetes.io/instance": "rel", "app.kubernetes.io/component": "api"}}}
    need(spec["egress"][2] == {"ports": [{"protocol": "TCP", "port": "api"}], "to": [to_api]}, f"{spec['egress']}")
    # A named port means the port of the pods that are reached.
    need(spec["egress"][0]["ports"][0]["port"] == 53 and spec["egress"][1]["ports"][0]["port"] == 9092, f"{spec['egress']}")
    need(len(policy({"api.enabled": False})["egress"]) == 2, "without an API there is a way to it")
    away = policy({"console.apiUrl": "https://hooks.example:8443"})["egress"][2]
    need(away == {"ports": [{"protocol": "TCP", "port": 8443}]}, f"{away}")
    need(policy({"console.apiUrl": "https://hooks.example"})["egress"][2] == {"ports": [{"protocol": "TCP", "port": 443}]}, "https has port 443")
    need(policy({"networkPolicy.consoleFrom": PEER})["ingress"][1]["from"] == PEER, "the page's peers were not put in")


def console_api() -> None:
    for change, url in (
        ({}, "http://rel-hookstream-api.crm.svc:80"),
        ({"api.tlsSecret.name": "tls"}, "https://rel-hookstream-api.crm.svc:443"),
        ({"console.apiUrl": "https://hooks.example"}, "https://hooks.example"),
        ({"api.enabled": False}, None),
    ):
        got = environment(objects(render({"console.enabled": True} | change)), "console").get("HOOKSTREAM_CONSOLE_API_URL")
        need(got == url, f"{change}: {got}")


def no_links() -> None:
    links = [str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_symlink()]
    need(not links, f"{links}")
    for change in ({}, {"monitoring.rules.enabled": True, "monitoring.dashboard.enabled": True}):
        errors = template(values_of(change)).stderr
        need("symbolic link" not in errors, errors)


def job_names() -> None:
    found = objects(render({"monitoring.serviceMonitor.enabled": True}))
    monitor = found["ServiceMonitor", "rel-hookstream"]["spec"]
    jobs = {item["metadata"]["labels"].get(monitor["jobLabel"]) for (kind, _), item in found.items() if kind == "Service"} - {None}
    need(jobs == {"hookstream-worker", "hookstream-api"}, f"{jobs}")
    with_console = objects(render({"console.enabled": True}))
    labels = [item["metadata"]["labels"].get(monitor["jobLabel"]) for (kind, _), item in with_console.items() if kind == "Service"]
    need("hookstream-console" in labels, f"{labels}")
