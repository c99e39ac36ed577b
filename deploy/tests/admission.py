"""Each rendering of the chart goes through a real API server: its admission, its validation, its custom resources."""

import copy
import os
from pathlib import Path

import yaml

from apiserver import ApiServer
from report import Report, need

NAMESPACE = "crm"
# Kubernetes' strictest standard for pods.
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def check(report: Report, renderings: dict) -> None:
    """`renderings`: the rendered text by the name of the change."""
    with ApiServer() as server:
        server.install(Path(os.environ["KUBERNETES"]) / "crds")
        server.must_create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
        server.must_create({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000})
        known: dict = {}
        for name, text in renderings.items():
            report.check(f"an API server takes: {name}", accepts, server, text, known)
        text = renderings["as it is"]
        report.check("an API server refuses an unknown field", refuses, server, text, unknown_field, "clusterIp")
        report.check("an API server refuses a pod that may run as root", refuses, server, text, as_root, "restricted")


def items(text: str) -> list:
    """The objects of a rendering, and each pod that one of them would make: only a pod itself is held to the namespace's standard."""
    found = [item for item in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if item]
    pods = []
    for item in found:
        template = item.get("spec", {}).get("template") if item["kind"] in ("Deployment", "Job") else None
        if template:
            pod = copy.deepcopy(template)
            pod |= {"apiVersion": "v1", "kind": "Pod"}
            pod["metadata"] |= {"name": item["metadata"]["name"] + "-pod", "namespace": item["metadata"]["namespace"]}
            pods.append(pod)
    return found + pods


def accepts(server: ApiServer, text: str, known: dict) -> None:
    faults = []
    for item in items(text):
        # Most renderings share most objects; each is asked about once.
        key = repr(item)
        if key not in known:
            known[key] = server.judge(item)
        faults += known[key]
    need(not faults, "\n".join(faults))


def unknown_field(text: str) -> str:
    return text.replace("clusterIP: None", "clusterIp: None")


def as_root(text: str) -> str:
    return text.replace("runAsNonRoot: true", "runAsNonRoot: false")


def refuses(server: ApiServer, text: str, change, word: str) -> None:
    changed = change(text)
    need(changed != text, "the change changes nothing")
    faults = [fault for item in items(changed) for fault in server.judge(item)]
    need(any(word in fault for fault in faults), f"it says nothing of {word}: {faults}")
