"""Kafka, a worker and the registration API as processes, for checks of the files around them."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

from processes import Loopback, Process, binary, get, kafka_jars, until
from report import ROOT, must, need

TOKEN = "a-token-of-the-tests"
PORTS = {"kafka": 9092, "controller": 9093, "worker": 9464, "api-admin": 9465, "api": 8080}


class World:
    """A small real system: one broker, one worker, retries after a second, everything on loopback."""

    def __init__(self, folder: Path) -> None:
        kafka_jars()
        loopback = Loopback(list(PORTS.values()))
        self.folder, self.at = folder, {name: f"{loopback.address(1)}:{port + loopback.moved}" for name, port in PORTS.items()}
        self.kafka_environment = {"KAFKA_LISTEN": self.at["kafka"], "KAFKA_CONTROLLER_LISTEN": self.at["controller"], "TMPDIR": str(folder)}
        self.environment = {
            "HOOKSTREAM_BROKERS": self.at["kafka"], "HOOKSTREAM_RETRY_SCHEDULE": "1s", "HOOKSTREAM_TOPIC_PARTITIONS": "3",
            "HOOKSTREAM_TOPIC_REPLICATION_FACTOR": "1", "HOOKSTREAM_ALLOW_PRIVATE_NETWORKS": "127.0.0.0/8",
        }
        self.processes = []

    def start(self) -> bool:
        kafka = self.run("kafka", [ROOT / "deploy/kafka"], self.kafka_environment)
        until("Kafka", lambda: kafka.must_run() and "Kafka listens" in kafka.text())
        must(binary(), "topics", "apply", env=dict(os.environ) | self.environment)
        (self.folder / "tokens").write_text(f"{TOKEN} *\n")
        worker = self.run("worker", [binary(), "worker", "--admin-listen", self.at["worker"]], self.environment)
        listen = ["--admin-listen", self.at["api-admin"], "--api-listen", self.at["api"], "--api-tokens-file", self.folder / "tokens"]
        api = self.run("api", [binary(), "api", *listen], self.environment)
        until("the worker", lambda: worker.must_run() and "ready" in get(f"http://{self.at['worker']}/readyz"))
        until("the API", lambda: api.must_run() and "ready" in get(f"http://{self.at['api-admin']}/readyz"))
        return True

    def run(self, name: str, command: list, environment: dict) -> Process:
        process = Process(name, command, environment, self.folder)
        self.processes.append(process)
        return process

    def register(self, number: int, base_url: str, secret: str) -> None:
        """An integration of the workspace `demo`, whose one webhook takes every event."""
        integration = f"6f1b4a52-6d5e-4a7e-9d3b-{number:012d}"
        record = {
            "id": integration, "baseUrl": base_url, "status": "active", "secrets": [{"id": "webhook.signingSecret", "value": secret}],
            "webHooks": [{"id": f"7f1b4a52-6d5e-4a7e-9d3b-{number:012d}", "relativeUrl": "/callbacks", "triggerType": "entityEvent", "filter": {"items": [{}]}, "schedule": {}, "disabled": False}],
        }
        request = urllib.request.Request(
            f"http://{self.at['api']}/api/v1/demo/integrations/instances/{integration}", json.dumps(record).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}, method="PUT",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            need(answer.status == 200, f"registering was answered with {answer.status}")

    def events(self, count: int) -> None:
        must(ROOT / "deploy/kafka", "events", count, env=dict(os.environ) | self.kafka_environment)

    def metric(self, series: str) -> float:
        """The value of one series of the worker, as `/metrics` spells it."""
        lines = get(f"http://{self.at['worker']}/metrics").splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.process.terminate()
        for process in reversed(self.processes):
            try:
                process.process.wait(15)
            except subprocess.TimeoutExpired:
                pass
            process.kill()
