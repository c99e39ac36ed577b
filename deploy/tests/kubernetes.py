"""The table of deploy/kubernetes-test: actions on a release in a cluster while events flow, and the counts of an account outside of it.

Rows are claims: nothing is lost, nothing is repeated but after crashes, and no delivery is late for longer than said.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/hookstream"
STATE = Path(os.environ["STATE"])
HELM = os.environ["HELM_BIN"]
NAMESPACE = "crm"
LISTEN, PORT = "10.99.0.1", 9000
# How long a row may take to settle after its last event: a killed worker's partitions move after 7 s, clients of a frozen Kafka return within seconds.
SETTLE_SECONDS = 120
# One event in this number goes to the second receiver too: two a second, which is what it takes with 8 s an answer and 16 at a time.
SLOW_SHARE = 100
# The longest delay of any event while partitions move.
MOVE_SECONDS = 2.0
JUDGES_DELAYS = os.environ.get("KUBERNETES_TEST_DELAYS") != "report"


def run(*command: object, seconds: int = 300) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*words: object) -> str:
    return run("kubectl", "--namespace", NAMESPACE, *words)


class Account:
    """The events sent and the requests received. Times are of this machine's one clock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent: dict = {}
        self.entity: dict = {}
        # For each receiver the times at which an event came, and under which delivery ids; and when a plain consumer had it.
        self.came: dict = {"good": {}, "slow": {}, "witness": {}}

    def send(self, event: str, entity: str) -> None:
        with self.lock:
            self.sent[event], self.entity[event] = time.time(), entity

    def take(self, receiver: str, event: str, delivery: str) -> None:
        with self.lock:
            self.came[receiver].setdefault(event, []).append((time.time(), delivery))

    def missing(self, events: list, both: list) -> int:
        """How many deliveries have not come: of all events to the first receiver, of some to the second."""
        with self.lock:
            return sum(event not in self.came["good"] for event in events) + sum(event not in self.came["slow"] for event in both)


class Receivers(threading.Thread):
    """Two endpoints, one of which takes its time."""

    def __init__(self, account: Account) -> None:
        super().__init__(daemon=True)
        self.account = account
        self.slow_seconds = 0.0
        self.ready = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, LISTEN, PORT, backlog=1024)
        self.ready.set()
        async with server:
            await server.serve_forever()

    async def _connection(self, reader, writer) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                body = await reader.readexactly(int(headers["content-length"]))
                receiver = first.split()[1].strip("/")
                if receiver == "slow" and self.slow_seconds:
                    await asyncio.sleep(self.slow_seconds)
                self.account.take(receiver, json.loads(body)["id"], headers["webhook-id"])
                echo = headers["x-xcom-integration-echo"]
                writer.write(f"HTTP/1.1 200 OK\r\nx-xcom-integration-echo: {echo}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Producer:
    """Events at an even pace, through the producer that Kafka brings."""

    def __init__(self, account: Account) -> None:
        self.account = account
        jars = run(ROOT / "deploy/kafka", "jars").strip()
        self.process = subprocess.Popen(
            ["java", "-Xmx128m", "-cp", f"{jars}/*", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", f"{LISTEN}:9092",
             "--topic", "crm.object-events", "--timeout", "5", "--reader-property", "parse.headers=true", "--reader-property", "parse.key=true",
             # Its default gives a record up after three times 1.5 s.
             "--reader-property", "key.separator=|", "--message-send-max-retries", "1000000", "--request-timeout-ms", "30000",
             "--command-property", "delivery.timeout.ms=300000"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=open(STATE / "log/producer.log", "w"), text=True,
        )

    def send(self, entity: str, kind: str = "company") -> str:
        event = str(uuid.uuid4())
        value = {"id": event, "offset": event, "type": "change", "entityIds": {f"{kind}Id": entity},
                 "changeData": {"type": "patch", "old": {"name": "Acme"}, "new": {"name": "Acme Ltd"}}}
        self.account.send(event, entity)
        self.process.stdin.write(f"workspace:demo\t{entity}|{json.dumps(value)}\n")
        self.process.stdin.flush()
        return event

    def at(self, rate: float, until: threading.Event, seconds_min: float) -> tuple:
        """Sends events for at least `seconds_min`, and until the action meanwhile has ended. Returns the events, and those that the second receiver gets too."""
        entities = [str(uuid.uuid4()) for _ in range(997)]
        events, both, begun = [], [], time.monotonic()
        while time.monotonic() - begun < seconds_min or not until.is_set():
            kind = "contact" if len(events) % SLOW_SHARE == 0 else "company"
            events.append(self.send(entities[len(events) % len(entities)], kind))
            if kind == "contact":
                both.append(events[-1])
            pause = begun + len(events) / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
        return events, both


class Witness(threading.Thread):
    """A plain consumer of the events, which keeps its partitions: a delay that it shares comes from Kafka, the producer or the machine."""

    def __init__(self, account: Account) -> None:
        super().__init__(daemon=True)
        self.account = account
        jars = run(ROOT / "deploy/kafka", "jars").strip()
        self.process = subprocess.Popen(
            ["java", "-Xmx64m", "-cp", f"{jars}/*", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", f"{LISTEN}:9092",
             "--topic", "crm.object-events", "--from-beginning"],
            stdout=subprocess.PIPE, stderr=open(STATE / "log/witness.log", "w"), text=True,
        )

    def run(self) -> None:
        for line in self.process.stdout:
            try:
                self.account.take("witness", json.loads(line)["id"], "")
            except (ValueError, KeyError):
                print(f"the plain consumer says: {line.strip()[:200]}", file=sys.stderr)


class Trial:
    def __init__(self) -> None:
        self.account = Account()
        self.receivers = Receivers(self.account)
        self.receivers.start()
        self.receivers.ready.wait(30)
        self.rows: list = []
        self.faults: list = []

    def until(self, what: str, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline:
                raise SystemExit(f"not in {seconds} s: {what}")
            time.sleep(0.1)

    def row(self, name: str, action, rate: int = 200, seconds: float = 20, crash: bool = False, bound: float = MOVE_SECONDS, slow: float = 0.0) -> None:
        """Sends events at `rate`, does `action` after 5 s, and waits until all have come."""
        self.receivers.slow_seconds = slow
        ended, problem, times = threading.Event(), [], []

        def act() -> None:
            try:
                time.sleep(5)
                times.append(time.time())
                action()
                times.append(time.time())
            except BaseException as fault:
                problem.append(fault)
            finally:
                ended.set()

        worker = threading.Thread(target=act)
        worker.start()
        events, both = self.producer.at(rate, ended, seconds)
        worker.join()
        # The row keeps its counts, and the table goes on.
        self.faults.extend(f"{name}: {fault}" for fault in problem)
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.account.missing(events, both) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.rows.append((name, events, both, crash, bound))
        print(self.line(*self.rows[-1]), flush=True)
        with self.account.lock:
            came = {event: self.account.came["good"].get(event, []) for event in events}
            seen = {event: self.account.came["witness"].get(event, []) for event in events}
            details = [[self.account.sent[event], self.account.entity[event], [at for at, _ in came[event]], [at for at, _ in seen[event]]]
                    for event in events]
        (STATE / f"log/row-{len(self.rows)}.json").write_text(json.dumps({"name": name, "times": times, "events": details}))

    def counts(self, events: list, both: list) -> tuple:
        """Delays are those of the first receiver: the question is how long others wait."""
        with self.account.lock:
            delays = sorted(
                min(at for at, _ in self.account.came["good"][event]) - self.account.sent[event]
                for event in events if event in self.account.came["good"]
            )
            came = self.account.came
            seen = [came["good"].get(event, []) for event in events] + [came["slow"].get(event, []) for event in both]
        lost = sum(not times for times in seen)
        repeated = sum(max(len(times) - 1, 0) for times in seen)
        other_ids = sum(len({delivery for _, delivery in times}) > 1 for times in seen)
        return lost, repeated, other_ids, delays

    def witnessed(self, events: list) -> float:
        """How long a plain consumer waited for the event that it waited for longest; not a number where it saw none."""
        with self.account.lock:
            seen, sent = self.account.came["witness"], self.account.sent
            return max((seen[event][0][0] - sent[event] for event in events if event in seen), default=float("nan"))

    def line(self, name: str, events: list, both: list, crash: bool, bound: float) -> str:
        lost, repeated, _, delays = self.counts(events, both)
        late = sum(delay > 1 for delay in delays)
        p99 = delays[int(len(delays) * 0.99)] if delays else float("nan")
        worst = delays[-1] if delays else float("nan")
        return f"| {name} | {lost} | {repeated} | {late:,} of {len(events):,} | {p99:.2f} s | {worst:.2f} s | {self.witnessed(events):.2f} s | {bound:.0f} s |"

    def judge(self) -> None:
        """Counts at the end, so that later repeats count too."""
        print("\n| what was done | lost | repeated | late > 1 s | p99 | longest delay | of a plain consumer | bound |\n"
              "| --- | --- | --- | --- | --- | --- | --- | --- |")
        for row in self.rows:
            print(self.line(*row))
            name, events, both, crash, bound = row
            lost, repeated, other_ids, delays = self.counts(events, both)
            if lost:
                self.faults.append(f"{name}: {lost} lost")
            if repeated and not crash:
                self.faults.append(f"{name}: {repeated} repeated")
            if other_ids:
                self.faults.append(f"{name}: {other_ids} came again under another webhook-id")
            if JUDGES_DELAYS and delays and delays[-1] > bound:
                self.faults.append(f"{name}: a delivery came after {delays[-1]:.1f} s, more than {bound} s; a plain consumer waited for "
                                   f"{self.witnessed(events):.1f} s at most")

    # The release.

    def values(self, *more: str) -> list:
        return [
            "--set", "image.repository=localhost/hookstream", "--set", f"image.tag={os.environ.get('KUBERNETES_TEST_IMAGE', 'debian')}",
            "--set", "kafka.brokers=kafka.kafka.svc.cluster.local:9092", "--set", "topics.apply.replicationFactor=1",
            "--set", "delivery.allowPrivateNetworks={10.99.0.0/24}", "--set", "api.tokensSecret.name=hookstream-tokens",
            # The nodes share this machine's cores with everything else.
            "--set", "worker.resources.requests.cpu=50m", "--set", "api.resources.requests.cpu=50m",
            *(word for value in more for word in ("--set", value)),
        ]

    def upgrade(self, *more: str) -> None:
        run(HELM, "upgrade", "--install", "hookstream", CHART, "--namespace", NAMESPACE, "--wait", "--timeout", "5m", *self.values(*more))

    def install(self) -> None:
        run("kubectl", "create", "namespace", NAMESPACE)
        run("kubectl", "label", "namespace", NAMESPACE, *(f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")))
        self.token = uuid.uuid4().hex
        kubectl("create", "secret", "generic", "hookstream-tokens", f"--from-literal=tokens={self.token} *")
        self.failed_install()
        self.uninstall()
        self.failed_install()
        self.upgrade()
        said = run(HELM, "test", "hookstream", "--namespace", NAMESPACE, "--timeout", "2m")
        print("helm test:", *(line for line in said.splitlines() if line.startswith("Phase:")), flush=True)

    def failed_install(self) -> None:
        """A mistake in the options fails at once, and the same command with the right value may follow it."""
        begun = time.monotonic()
        command = [HELM, "install", "hookstream", str(CHART), "--namespace", NAMESPACE, "--timeout", "5m", *self.values("kafka.properties.no\\.such=1")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        seconds = time.monotonic() - begun
        said = kubectl("logs", "job/hookstream-topics")
        print(f"an installation with a property that does not exist fails after {seconds:.0f} s: {said.strip()[:200]}", flush=True)
        if done.returncode == 0 or "no.such" not in said:
            self.faults.append(f"a mistake in the options did not fail the installation: {done.stdout}{said}")
        if seconds > 60:
            self.faults.append(f"the failed installation took {seconds:.0f} s to say so")

    def uninstall(self) -> None:
        """Removes everything, also a job that failed."""
        run(HELM, "uninstall", "hookstream", "--namespace", NAMESPACE, "--wait", "--timeout", "3m")
        # Pods end in their time.
        kinds = "jobs,deployments,services,networkpolicies,configmaps,secrets,serviceaccounts,poddisruptionbudgets"
        left = kubectl("get", kinds, "-l", "app.kubernetes.io/instance=hookstream", "-o", "name").strip()
        print(f"uninstalling leaves {left or 'nothing'}", flush=True)
        if left:
            self.faults.append(f"uninstalling leaves {left}")

    def register(self) -> None:
        address = kubectl("get", "service", "hookstream-api", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
        for receiver, item in (("good", {}), ("slow", {"entityType": "contact"})):
            number = str(uuid.uuid4())
            body = {"id": number, "baseUrl": "http://receiver.test:9000", "status": "active", "secrets": [], "settings": [], "features": {},
                    "webHooks": [{"id": str(uuid.uuid4()), "relativeUrl": f"/{receiver}", "triggerType": "entityEvent",
                                  "filter": {"items": [item]}, "schedule": {}, "disabled": False}]}
            run("curl", "--fail-with-body", "--silent", "--show-error", "--retry", "30", "--retry-connrefused", "--retry-delay", "1", "-X", "PUT",
                f"http://{address}/api/v1/demo/integrations/instances/{number}", "-H", f"Authorization: Bearer {self.token}",
                "-H", "Content-Type: application/json", "-d", json.dumps(body))

    def rollout(self) -> None:
        kubectl("rollout", "restart", "deployment/hookstream-worker")
        self.settled()

    def settled(self) -> None:
        kubectl("rollout", "status", "deployment/hookstream-worker", "--timeout=180s")

    def scale(self, *numbers: int) -> None:
        for number in numbers:
            kubectl("scale", "deployment/hookstream-worker", f"--replicas={number}")
            self.settled()

    def delete_pod(self) -> None:
        pod = kubectl("get", "pods", "-l", "app.kubernetes.io/component=worker", "-o", "name").split()[0]
        kubectl("delete", pod, "--force", "--grace-period=0")
        self.settled()

    def kill_worker(self) -> None:
        pid = int(run("pgrep", "-f", "^hookstream worker").split()[0])
        os.kill(pid, signal.SIGKILL)
        self.until("the killed worker is replaced", lambda: str(pid) not in run("pgrep", "-f", "^hookstream worker").split())
        self.settled()

    def drain(self) -> None:
        for node in ("node2", "node1"):
            run("kubectl", "drain", node, "--ignore-daemonsets", "--timeout=180s")
            self.settled()
            run("kubectl", "uncordon", node)

    def upgrade_and_back(self) -> None:
        self.upgrade("delivery.maxInFlight=512")
        run(HELM, "rollback", "hookstream", "--namespace", NAMESPACE, "--wait", "--timeout", "5m")

    def reinstall(self) -> None:
        self.uninstall()
        self.upgrade()

    def freeze_kafka(self) -> None:
        [pid] = [int(word) for word in run("pgrep", "-f", "kafka[.]Kafka").split()][-1:]
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(45)
        finally:
            os.kill(pid, signal.SIGCONT)

    def table(self, wanted: list) -> None:
        rows = {
            "calm": lambda name: self.row("nothing (20 s)", lambda: None, bound=1.0),
            "rollout": lambda name: self.row("`rollout restart` of 2 workers", self.rollout, seconds=40),
            "scale": lambda name: self.row("`kubectl scale` 2→4→1→2", lambda: self.scale(4, 1, 2), seconds=40),
            "upgrade": lambda name: self.row("`helm upgrade` of one value and `helm rollback`", self.upgrade_and_back, seconds=40),
            "drain": lambda name: self.row("`kubectl drain` of node 2, then of node 1", self.drain, seconds=40),
            "slow": lambda name: self.row("`rollout restart` beside a receiver of 8 s", self.rollout, seconds=40, slow=8.0),
            "slow-scale": lambda name: self.row("scaling beside it", lambda: self.scale(4, 1, 2), seconds=40, slow=8.0),
            "slow-upgrade": lambda name: self.row("upgrade and rollback beside it", self.upgrade_and_back, seconds=40, slow=8.0),
            "slow-drain": lambda name: self.row("drain beside it", self.drain, seconds=40, slow=8.0),
            "delete": lambda name: self.row("`kubectl delete pod --force --grace-period=0`", self.delete_pod, seconds=30),
            "kill": lambda name: self.row("`kill -9` of one worker", self.kill_worker, seconds=30, crash=True, bound=8.0),
            "reinstall": lambda name: self.row("`helm uninstall`, `helm install` again", self.reinstall, seconds=40, bound=60.0),
            "freeze": lambda name: self.row("Kafka frozen for 45 s, 50/s", self.freeze_kafka, rate=50, seconds=60, crash=True, bound=60.0),
        }
        unknown = set(wanted) - rows.keys()
        if unknown:
            raise SystemExit(f"no row {', '.join(unknown)}: {', '.join(rows)} are there")
        Witness(self.account).start()
        self.producer = Producer(self.account)
        # The first events find no open connection: no row counts them.
        warm = [self.producer.send(str(uuid.uuid4())) for _ in range(100)]
        self.until("the first events come", lambda: not self.account.missing(warm, []))
        self.until("the plain consumer has them", lambda: all(event in self.account.came["witness"] for event in warm))
        for name in wanted or rows:
            rows[name](name)


def main(arguments: list) -> int:
    trial = Trial()
    trial.install()
    trial.register()
    if arguments == ["shell"]:
        return subprocess.run([os.environ.get("SHELL", "bash")], check=False).returncode
    try:
        trial.table(arguments)
    finally:
        trial.judge()
    said = (STATE / "log/producer.log").read_text().strip()
    if "ERROR" in said:
        trial.faults.append(f"the producer itself lost events: {said[:500]}")
    for fault in trial.faults:
        print(f"FAIL  {fault}")
    print(f"\n{len(trial.rows)} rows: {'all as promised' if not trial.faults else f'{len(trial.faults)} faults'}")
    return 1 if trial.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
