"""Programs that a check starts: on loopback addresses of its own, waited for with a deadline, ended by their own ids."""

import ctypes
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from report import ROOT, Failure, must, need

PATIENCE = 90
PR_SET_PDEATHSIG = 1


def binary() -> str:
    """The program under test, built by deploy/test."""
    return os.environ["PROGRAM"]


def until(what: str, condition, seconds: float = PATIENCE):
    """Calls `condition` until it returns something true; the last `Failure` that it raised is the reason of a time-out."""
    deadline, instead = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, Failure) as error:
            instead = str(error)
        time.sleep(0.05)
    raise Failure(f"waited {seconds} s for {what}; {instead}")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def get_json(url: str):
    return json.loads(get(url))


class HeldPort:
    """A port of 127.0.0.1 that nothing else gets while it is held. A server that sets SO_REUSEADDR, as all of them do here, may listen on it."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        # Only now: a socket that is bound with it may get a port that another has.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number = self.socket.getsockname()[1]

    def release(self) -> None:
        self.socket.close()


class Loopback:
    """A network of 127.0.0.0/8 that no other process uses, and how far ports are moved where something listens everywhere."""

    def __init__(self, ports: list) -> None:
        self.network = f"127.{random.randint(64, 250)}.{random.randint(1, 250)}"
        self.moved = next((moved for moved in range(0, 30_000, 3_000) if all(self.is_free(port + moved) for port in ports)), None)
        need(self.moved is not None, f"no ports for {ports} are free")

    def is_free(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address(1), port))
            except OSError:
                return False
        return True

    def address(self, number: int) -> str:
        return f"{self.network}.{number}"

    def ports_moved(self, text: str) -> str:
        return re.sub(rf"({re.escape(self.network)}\.\d+)([:/])(\d+)", lambda match: f"{match[1]}{match[2]}{int(match[3]) + self.moved}", text)


def die_with_us() -> None:
    """In the child: it is killed when the thread that started it ends for any reason."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A running program; its output is in a file."""

    def __init__(self, name: str, command: list, environment: dict, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], env=base | environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_us,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def code(self):
        return self.process.poll()

    def must_run(self) -> bool:
        if self.code() is not None:
            # Not a `Failure`: nothing is to wait for it any longer.
            raise RuntimeError(f"{self.name} has ended with {self.code()}:\n{self.tail()}")
        return True

    def tail(self) -> str:
        return "\n".join(self.text().splitlines()[-25:])

    def ended(self, seconds: float = PATIENCE) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} has not ended within {seconds} s:\n{self.tail()}") from None

    def stop(self, seconds: float = 40) -> int:
        """As `docker stop` does: SIGTERM, and SIGKILL when the time is up."""
        if self.code() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it and all processes that it started: it has a session of its own."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def kafka_jars() -> str:
    return must(ROOT / "deploy/kafka", "jars", seconds=900).strip()


def java(folder: Path, jars: str) -> list:
    """How a Java program of Kafka's begins."""
    configuration = folder / "log4j2.properties"
    if not configuration.exists():
        configuration.write_text(
            "rootLogger.level = WARN\nrootLogger.appenderRef.console.ref = console\nappender.console.type = Console\n"
            "appender.console.name = console\nappender.console.target = SYSTEM_ERR\n"
        )
    options = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:-UsePerfData", f"-Djava.io.tmpdir={folder}", f"-Dlog4j2.configurationFile={configuration}"]
    return ["java", *options, "-cp", f"{jars}/*"]
