"""docker-compose.yml without Docker: every service's own command with its own environment, as processes on this machine.

Each container becomes a process with a loopback address of its own. What a container's network, files and image give it is
put in mechanically: names of services become addresses, the network's range the loopback range, paths of mounts and images
paths here. Nothing of the file is repeated here.
"""

import json
import os
import re
import shlex
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer

from processes import Loopback, Process, binary, java, kafka_jars, until
from report import Failure, must, need

# The content of the images, which the file only names.
KAFKA_PROGRAMS = {
    "kafka-broker-api-versions.sh": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
}
# apache/kafka has one fixed cluster id for each cluster that is started without one.
KAFKA_DEFAULTS = {"CLUSTER_ID": "5L6g3nShT-eMCtK--X86sw"}
OURS, KAFKA, CURL, PROMETHEUS, GRAFANA = "hookstream", "apache/kafka", "curlimages/curl", "prom/prometheus", "grafana/grafana"
DEFAULT_PORTS = {OURS: {"HOOKSTREAM_ADMIN_LISTEN": 9464, "HOOKSTREAM_API_LISTEN": 8080, "HOOKSTREAM_CONSOLE_LISTEN": 8090}}


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    need(found and duration, f"a duration of {duration}")
    return int(found[1] or 0) * 60 + int(found[2] or 0)


class Container:
    """One process of a service, and how a container's words are read here."""

    def __init__(self, stack, name: str, service: dict, address: str, number: int) -> None:
        self.stack, self.service, self.address, self.number = stack, service, address, number
        self.name = f"{name}-{number}"
        self.folder = stack.folder / self.name
        self.folder.mkdir()
        self.image = service["image"].partition(":")[0]
        self.process = None

    def here(self, text: str) -> str:
        """The text of the file as this machine has it."""
        text = self.stack.network_here(text)
        # Itself, in all its spellings.
        text = re.sub(r"(?<![\w.])(0\.0\.0\.0|localhost|127\.0\.0\.1)(?=[:/]\d)", self.address, text)
        text = re.sub(r"(?<=://)(?=:\d)", self.address, text)
        for target, source in self.mounts.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(target)}(?![\w.-])", str(source), text)
        if self.image == KAFKA:
            text = text.replace("/opt/kafka/bin/", f"{self.stack.programs}/")
        return self.stack.loopback.ports_moved(text)

    @property
    def mounts(self) -> dict:
        volumes = self.service.get("volumes") or []
        return {volume["target"]: self.folder / "mounts" / volume["target"].lstrip("/") for volume in volumes}

    def mount(self) -> None:
        for volume in self.service.get("volumes") or []:
            source, target = Path(volume["source"]), self.mounts[volume["target"]]
            for file in [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]:
                copy = target / file.relative_to(source) if source.is_dir() else target
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(self.stack.discovered(self.here(file.read_text())))

    def environment(self) -> dict:
        given = {name: self.here(value) for name, value in (self.service.get("environment") or {}).items()}
        for name, port in DEFAULT_PORTS.get(self.image, {}).items():
            given.setdefault(name, self.here(f"{self.address}:{port}"))
        if self.image == KAFKA:
            given = KAFKA_DEFAULTS | {"KAFKA_LOG_DIRS": str(self.folder / "data")} | given
            given["PRODUCER"] = f"{self.stack.programs}/kafka-console-producer.sh"
        return given

    def words(self, words) -> list:
        return [self.here(word) for word in words or []]

    def command(self) -> list:
        """Entry point and command: the file's, or else the image's."""
        entrypoint, command = self.words(self.service.get("entrypoint")), self.words(self.service.get("command"))
        if entrypoint:
            return entrypoint + command
        if self.image == OURS:
            return [binary(), *command]
        if self.image == KAFKA and not command:
            return self.broker()
        if self.image == CURL:
            return command
        if self.image == PROMETHEUS and not command:
            listen = self.here(f"{self.address}:9090")
            data, configuration = self.folder / "data", self.mounts["/etc/prometheus/prometheus.yml"]
            return ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={data}", f"--web.listen-address={listen}"]
        raise Failure(f"{self.name}: it is not known what {self.image} runs")

    def broker(self) -> list:
        """Does the work of the image: its own program makes the configuration from the environment and formats the storage."""
        defaults, mounted, final = (self.folder / part for part in ("defaults", "mounted", "final"))
        for part in (defaults, mounted, final):
            part.mkdir(exist_ok=True)
        if not (self.folder / "data").exists():
            for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
                (defaults / name).write_text("")
            folders = ["--default-configs-dir", defaults, "--mounted-configs-dir", mounted, "--final-configs-dir", final]
            setup = Process(f"{self.name}-setup", [*self.stack.java, "kafka.docker.KafkaDockerWrapper", "setup", *folders], self.environment(), self.stack.folder)
            need(setup.ended() == 0, f"Kafka's image cannot be set up:\n{setup.tail()}")
        return [*self.stack.java, "kafka.Kafka", final / "server.properties"]

    def start(self) -> None:
        self.mount()
        self.process = Process(self.name, self.command(), self.environment(), self.stack.folder)

    def healthy(self) -> bool:
        self.process.must_run()
        check = self.service["healthcheck"]
        kind, *words = check["test"]
        need(kind == "CMD", f"a health check of the kind {kind}")
        done = self.run(self.words(words), seconds(check["timeout"]))
        need(done.returncode == 0, f"{shlex.join(words)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
        return True

    def run(self, command: list, most: float) -> subprocess.CompletedProcess:
        """A command in the container, with its environment."""
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | self.environment()
        try:
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=most, check=False)
        except subprocess.TimeoutExpired:
            raise Failure(f"{shlex.join(map(str, command))} took more than {most} s") from None


class Stack:
    """All of the file's services."""

    def __init__(self, model: dict, folder: Path) -> None:
        self.model, self.folder = model, folder
        services = model["services"]
        ports = {port["target"] for service in services.values() for port in service.get("ports") or []}
        self.loopback = Loopback(sorted(ports | {9092, 9093, 9464}))
        self.programs, self.java = folder / "programs", java(folder, kafka_jars())
        self.write_programs()
        self.containers, number = {}, 10
        for name, service in services.items():
            self.containers[name] = []
            for replica in range(1, service.get("deploy", {}).get("replicas", 1) + 1):
                number += 1
                self.containers[name].append(Container(self, name, service, self.loopback.address(number), replica))
        self.known = re.compile(rf"(?<![\w.-])({'|'.join(sorted(map(re.escape, services), key=len, reverse=True))})(?=:\d)")
        self.subnet = model["networks"]["default"]["ipam"]["config"][0]["subnet"]

    def write_programs(self) -> None:
        self.programs.mkdir()
        for name, main in KAFKA_PROGRAMS.items():
            program = self.programs / name
            program.write_text(f"#!/bin/sh\nexec {shlex.join(self.java)} {main} \"$@\"\n")
            program.chmod(0o755)

    def network_here(self, text: str) -> str:
        text = text.replace(self.subnet, f"{self.loopback.network}.0/24")
        return self.known.sub(lambda match: self.containers[match[1]][0].address, text)

    def discovered(self, text: str) -> str:
        """Prometheus asks a name server for the containers of a service; here the configuration names them."""

        def static_targets(match: re.Match) -> str:
            targets = [f"{container.address}:{int(match[2]) + self.loopback.moved}" for container in self.containers[match[1]]]
            return f"static_configs:\n      - targets: {json.dumps(targets)}"

        return re.sub(r"dns_sd_configs:\n\s*- \{ names: \[([\w-]+)\], type: A, port: (\d+)[^}]*\}", static_targets, text)

    def one(self, service: str) -> Container:
        need(service in self.containers, f"there is no service {service}")
        return self.containers[service][0]

    def address(self, service: str, port: int) -> str:
        return f"{self.one(service).address}:{port + self.loopback.moved}"

    def all(self) -> list:
        return [container for containers in self.containers.values() for container in containers if container.image != GRAFANA]

    def one_shots(self) -> set:
        """The services that others wait for to complete: `up --wait` accepts that these end, and no other."""
        waits = [service.get("depends_on") or {} for service in self.model["services"].values()]
        return {name for wait in waits for name, how in wait.items() if how["condition"] == "service_completed_successfully"}

    def up(self) -> None:
        """As `docker compose up --wait`: in the order of dependencies, until all is well."""
        waiting = [name for name in self.containers if self.one(name).image != GRAFANA]
        while waiting:
            ready = [name for name in waiting if not any(other in waiting for other in self.model["services"][name].get("depends_on") or {})]
            need(ready, f"{waiting} wait for each other")
            for name in ready:
                for other, how in (self.model["services"][name].get("depends_on") or {}).items():
                    self.wait(other, how["condition"])
                for container in self.containers[name]:
                    container.start()
                waiting.remove(name)
        for name, containers in self.containers.items():
            if name in self.one_shots():
                self.wait(name, "service_completed_successfully")
            elif containers[0].image != GRAFANA:
                self.wait(name, "service_healthy" if "healthcheck" in containers[0].service else "service_started")

    def wait(self, name: str, condition: str) -> None:
        for container in self.containers[name]:
            if condition == "service_completed_successfully":
                need(container.process.ended() == 0, f"{container.name} ended with {container.process.code()}:\n{container.process.tail()}")
            elif condition == "service_healthy":
                check = container.service["healthcheck"]
                until(f"{container.name} to be healthy", container.healthy, seconds(check["interval"]) * check["retries"])
            else:
                container.process.must_run()

    def down(self) -> None:
        for container in reversed(self.all()):
            if container.process:
                container.process.kill()

    def compose(self, words: list) -> tuple:
        """`docker compose WORDS`: exit code and output."""
        verb, *rest = words
        options, rest = [word for word in rest if word.startswith("-")], rest
        if verb == "up" and set(options) <= {"--build", "--wait", "--detach", "-d"}:
            self.up()
            return 0, ""
        if verb in ("stop", "start") and not options:
            for name in rest:
                for container in self.containers[name]:
                    container.process.stop() if verb == "stop" else container.start()
            return 0, ""
        if verb == "exec" and len(rest) > 1 and not rest[0].startswith("-"):
            container = self.one(rest[0])
            command = [binary() if rest[1] == OURS else rest[1], *container.words(rest[2:])]
            done = container.run(command, 120)
            return done.returncode, done.stdout + done.stderr
        if verb == "logs" and len(rest) == 1:
            return 0, "".join(container.process.text() for container in self.containers[rest[0]])
        if verb == "down":
            self.down()
            return 0, ""
        raise Failure(f"docker compose {shlex.join(words)} is not known here")


SHIM = """#!/usr/bin/env python3
import json, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({path!r})
    asked.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    code, text = json.loads(asked.makefile().readline())
sys.stdout.write(text)
sys.exit(code)
"""


class Docker:
    """A `docker` for shells, by which the stack is asked."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.path = folder / "bin"
        self.path.mkdir()
        shim = self.path / "docker"
        shim.write_text(SHIM.format(path=str(folder / "docker.sock")))
        shim.chmod(0o755)

        # A child is killed when the thread that started it ends: one thread starts all children, and outlives them.
        self.hand = hand = ThreadPoolExecutor(max_workers=1)

        class Asked(StreamRequestHandler):
            def handle(self) -> None:
                words = json.loads(self.rfile.readline())
                try:
                    need(words[0] == "compose", f"docker {shlex.join(words)} is not known here")
                    answer = hand.submit(stack.compose, words[1:]).result()
                except Exception as error:
                    answer = 1, f"{error}\n"
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        self.server = ThreadingUnixStreamServer(str(folder / "docker.sock"), Asked)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.hand.shutdown()


def model(path: Path) -> dict:
    return json.loads(must(os.environ["COMPOSE_BIN"], "--format", "json", path, cwd=path.parent))
