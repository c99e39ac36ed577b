#!/usr/bin/env python3
"""How fast the readers answer, and what they cost deliveries, on a Kafka of one node on this machine.

    benches/readers/reach.py [--gigabytes 0.1] [--since 0.01] [--rounds 4] [--only readers|scans] BINARY [BINARY ...]

Writes 101,000 integrations, 1,000 of them in the workspace of two events, and attempts of those 1,000 (none of them of an event):
gigabytes in all, one event before them and one before the last of them (--since gigabytes). The records are compressed as the
worker compresses them, and what receivers answer differs from record to record. Then it asks each binary's console in turn: medians, and the process's peak of memory over idle. With the last binary a worker
delivers the same events in turn with nothing beside it and with four scans under way. Needs what deploy/kafka needs. Everything
listens on the loopback address and ends with the script.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEBHOOKS, OTHERS = 1_000, 100_000
EVENTS, RECEIVING = 20_000, 4  # of one round of deliveries, and webhooks that get each
PATIENCE_S = 240
# How long before its event a trace begins to read, because clocks differ. What was written in that time was not written since the event.
CLOCKS_DIFFER_S = 61
ANSWERS = 4_096  # that differ, far more than a batch holds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """Kafka, what is in it, and the processes that this script has started."""

    def __init__(self, folder, processes):
        self.folder, self.processes = pathlib.Path(folder), processes
        self.brokers = f"127.0.0.1:{free_port()}"
        self.receiver = free_port()

    def start(self, name, *command, **more):
        log = open(self.folder / f"{name}.log", "w")
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **more)
        self.processes.callback(end, process)
        return process

    def begin(self, binary):
        listen = {"KAFKA_LISTEN": self.brokers, "KAFKA_CONTROLLER_LISTEN": f"127.0.0.1:{free_port()}"}
        self.start("kafka", ROOT / "deploy/kafka", env={**os.environ, **listen})
        apply = [binary, "topics", "apply", "--brokers", self.brokers, "--topic-replication-factor", "1"]
        wait(lambda: subprocess.run(apply, capture_output=True).returncode == 0, "Kafka")

    def produce(self, topic, lines, headers=False):
        """`lines` are texts or bytes."""
        options = ["parse.key=true", "key.separator=\t"]
        if headers:
            options += ["parse.headers=true", "headers.delimiter=\t", "headers.key.separator=:"]
        command = ["java", "-Xmx512m", "-cp", f"{ROOT}/target/kafka-libs/*", "org.apache.kafka.tools.ConsoleProducer",
                   "--bootstrap-server", self.brokers, "--topic", topic, "--batch-size", "20000"]
        command += [part for option in options for part in ("--property", option)]
        for option in ("batch.size=262144", "linger.ms=20", "buffer.memory=134217728", "compression.type=lz4"):
            command += ["--producer-property", option]
        with open(self.folder / "producer.log", "a") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            for line in lines:
                process.stdin.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
            process.stdin.close()
            assert process.wait() == 0, f"see {log.name}"

    def serve(self, binary, name, *options):
        """A process with an admin page, once it is ready."""
        admin = free_port()
        command = [binary, name, "--brokers", self.brokers, "--admin-listen", f"127.0.0.1:{admin}", *options]
        process = self.start(name, *command)
        wait(lambda: get(admin, "/readyz").status == 200, name)
        return process, admin


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def wait(condition, what):
    until = time.time() + PATIENCE_S
    while time.time() < until:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.2)
    raise SystemExit(f"{what} is not ready after {PATIENCE_S} s")


def get(port, path, token=None):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=120)


def memory_mb(process, field):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def cpu_s(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def event(number, workspace):
    change = {"type": "patch", "old": {}, "new": {"x": "y" * 200}}
    value = {"id": f"ev-{number}", "type": "change", "entityIds": {"companyId": f"c{number}"}, "changeData": change}
    return f"workspace:{workspace}\t{number}\t{json.dumps(value)}"


def integration(workspace, number, port, entity):
    hook = {"id": f"w-{number}", "relativeUrl": f"cb{number}", "triggerType": "entityEvent",
            "filter": {"items": [{"entityType": entity} if entity else {}]}}
    value = {"id": f"i-{number}", "baseUrl": f"http://127.0.0.1:{port}/", "status": "active", "webHooks": [hook]}
    return f"{workspace}/i-{number}\t{json.dumps(value)}"


def answers():
    """What receivers may say: pages of 420 characters that no batch repeats."""
    words = random.Random(1)
    return ["<html><body>error " + words.randbytes(200).hex()[:388] + "</body></html>" for _ in range(ANSWERS)]


def attempts(first, gigabytes):
    """Records of attempts from number `first` on, as bytes: ten million of them are made while one waits."""
    size, number, said = 0, first, answers()
    while size < gigabytes * 1e9:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for number in range(number, number + WEBHOOKS):
            of = number % WEBHOOKS
            line = (f'acme/i-{of}\t{{"deliveryId":"msg_{number:032x}","webHookId":"w-{of}","eventId":"{number:08x}-0000-4000-8000-'
                    f'{number:012x}","attempt":1,"url":"https://a.example/cb","outcome":"failed","reason":"status","error":"the answer'
                    f' has status 500, not 200","status":500,"durationMs":12,"answer":"{said[number * 7 % ANSWERS]}","address":'
                    f'"192.0.2.1:443","origin":"crm.object-events/0/{number + 10}","entityIds":{{"companyId":"{number}"}},'
                    f'"nextAttemptAt":"2026-01-31T12:00:00Z","worker":"w","at":"{at}"}}').encode()
            size += len(line)
            yield line
        number += 1
    print(f"{number - first} attempts, {size / 1e9:.2f} GB", flush=True)


def readers(stage, binary, tokens):
    port = free_port()
    console, _ = stage.serve(binary, "console", "--console-listen", f"127.0.0.1:{port}", "--api-tokens-file", tokens)
    time.sleep(3)  # what was read at start is freed
    idle = memory_mb(console, "VmRSS")
    print(f"{binary}: idle {idle:.0f} MB", flush=True)

    def ask(path):
        began = time.perf_counter()
        answer = json.loads(get(port, f"/api/v1/{path}", "tok").read())
        return time.perf_counter() - began, answer

    def measure(path, times):
        asked = [ask(path) for _ in range(times)]
        spent, answer = [seconds * 1e3 for seconds, _ in asked], asked[-1][1]
        rows = len(answer.get("rows", answer.get("webhooks", [])))
        print(f"  {path}: median {statistics.median(spent):.0f} ms ({min(spent):.0f} to {max(spent):.0f}), {rows} rows,"
              f" complete {answer.get('complete')}, peak over idle {memory_mb(console, 'VmHWM') - idle:.0f} MB,"
              f" load {os.getloadavg()[0]:.1f}", flush=True)

    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    measure(f"acme/integrations/instances/i-7/attempts?limit=50&from={hour_ago}", 20)
    for event_id in ("ev-1", "ev-0"):
        place = ask(f"acme/events/{event_id}/trace")[1]["event"]["origin"].replace("/", "%2F")
        print(f"  {event_id}:", flush=True)
        measure(f"acme/events/{place}/trace", 5)
    measure("big/integrations/overview?limit=200", 20)
    measure("big/integrations/overview?limit=200&find=i-77", 10)
    return console, port


def scans(stage, binary, port, rounds):
    """The worker's processor time per delivery, alone and beside four scans, in turn."""
    stage.start("receiver", binary, "receiver", "--listen", f"127.0.0.1:{stage.receiver}")
    stage.produce("webhooks.integrations", (integration("load", n, stage.receiver, None) for n in range(RECEIVING)))
    worker, admin = stage.serve(binary, "worker", "--allow-private-networks", "127.0.0.0/8")

    def acknowledged():
        name, text = 'hookstream_deliveries_total{outcome="acknowledged"', get(admin, "/metrics").read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def scan(stop, ended):
        while not stop.is_set():
            with contextlib.suppress(urllib.error.HTTPError):
                get(port, "/api/v1/acme/attempts?limit=200&entity=nothing", "tok").read()
                ended.append(1)

    def turn(number, beside):
        stop, ended = threading.Event(), []
        threads = [threading.Thread(target=scan, args=(stop, ended)) for _ in range(beside)]
        for thread in threads:
            thread.start()
        before, spent, wanted = acknowledged(), cpu_s(worker), EVENTS * RECEIVING
        stage.produce("crm.object-events", (event(f"{number}-{n}", "load") for n in range(EVENTS)), headers=True)
        wait(lambda: acknowledged() - before >= wanted, "the last delivery")
        micros = (cpu_s(worker) - spent) / wanted * 1e6
        stop.set()
        for thread in threads:
            thread.join()
        return micros, len(ended)

    turn("warm", 0)
    alone, beside = [], []
    for number in range(rounds):
        order = (0, 4) if number % 2 == 0 else (4, 0)
        turns = {count: turn(f"{number}-{count}", count) for count in order}
        alone.append(turns[0][0])
        beside.append(turns[4][0])
        print(f"  alone {turns[0][0]:.1f} µs a delivery, beside four scans {turns[4][0]:.1f} ({turns[4][1]} ended),"
              f" load {os.getloadavg()[0]:.1f}", flush=True)
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"medians: alone {statistics.median(alone):.1f} µs, beside {statistics.median(beside):.1f} µs, ×{ratio:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.1)
    parser.add_argument("--since", type=float, help="gigabytes of them since the newer event; a tenth unless given")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", choices=["readers", "scans"])
    parser.add_argument("binary", nargs="+")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        stage = Stage(folder, processes)
        stage.begin(given.binary[-1])
        stage.produce("crm.object-events", [event(0, "acme")], headers=True)
        own = (integration("acme", n, stage.receiver, "contact" if n else "company") for n in range(WEBHOOKS))
        stage.produce("webhooks.integrations", own)
        stage.produce("webhooks.integrations", (integration("big", n, stage.receiver, "contact") for n in range(OTHERS)))
        since = given.gigabytes / 10 if given.since is None else given.since
        stage.produce("webhooks.attempts", attempts(0, given.gigabytes - since))
        time.sleep(CLOCKS_DIFFER_S)
        stage.produce("crm.object-events", [event(1, "acme")], headers=True)
        stage.produce("webhooks.attempts", attempts(100_000_000, since))
        tokens = pathlib.Path(folder) / "tokens"
        tokens.write_text("tok *\n")
        for binary in given.binary:
            console, port = readers(stage, binary, tokens)
            if binary is not given.binary[-1]:
                end(console)
        if given.only != "readers":
            scans(stage, given.binary[-1], port, given.rounds)


if __name__ == "__main__":
    main()
