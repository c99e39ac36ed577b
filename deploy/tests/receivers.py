"""Runs the receivers of docs/receivers.md unchanged: each gets a real worker's deliveries, and requests
signed here, good and bad ones, that a worker never sends.

For other tests `python3 deploy/tests/receivers.py FOLDER` writes them out: receiver.py, receiver.mjs, receiver.go, and a package in rust/.
"""

import base64
import hashlib
import hmac
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from processes import PATIENCE, HeldPort, until
from report import ROOT, Report, must, need, run
from world import World

PAGE = ROOT / "docs/receivers.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another key of thirty-two bytes.").decode()
# The example of the Standard Webhooks specification: this file signs as it does.
PUBLISHED = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


def blocks() -> dict:
    """The code of the page by the heading it stands under and its language."""
    found, heading = {}, ""
    for match in re.finditer(r"^### ([^\n]+)$|^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.S | re.M):
        if match[1]:
            heading = match[1]
        else:
            found[heading, match[2]] = match[3]
    return found


def sign(secret: str, delivery: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{delivery}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


MANIFEST = '[package]\nname = "receiver"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n'


def write_out(folder: Path) -> None:
    code = blocks()
    for name, text in {
        "receiver.py": code["Python", "python"],
        "receiver.mjs": code["Node", "javascript"],
        "receiver.go": code["Go", "go"],
        "rust/Cargo.toml": MANIFEST + code["Rust", "toml"],
        "rust/src/main.rs": code["Rust", "rust"],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def python(folder: Path) -> list:
    (folder / "receiver.py").write_text(blocks()["Python", "python"])
    return ["python3", folder / "receiver.py"]


def node(folder: Path) -> list:
    (folder / "receiver.mjs").write_text(blocks()["Node", "javascript"])
    return ["node", folder / "receiver.mjs"]


def go(folder: Path) -> list:
    (folder / "receiver.go").write_text(blocks()["Go", "go"])
    must("go", "build", "-o", folder / "receiver", folder / "receiver.go", seconds=300)
    must("go", "vet", folder / "receiver.go", seconds=300)
    return [folder / "receiver"]


def rust(_: Path) -> list:
    # Kept from run to run, so that its dependencies are built once.
    package = Path(os.environ["TOOLS"]) / "receiver-rust"
    (package / "src").mkdir(parents=True, exist_ok=True)
    for path, text in ((package / "Cargo.toml", MANIFEST + blocks()["Rust", "toml"]), (package / "src/main.rs", blocks()["Rust", "rust"])):
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    # The project's own versions, so that the example is built from the project's own dependencies.
    if not (package / "Cargo.lock").exists():
        (package / "Cargo.lock").write_bytes((ROOT / "Cargo.lock").read_bytes())
    environment = dict(os.environ, CARGO_TARGET_DIR=str(package / "target"), RUSTFLAGS="-D warnings")
    must("cargo", "build", "--quiet", cwd=package, env=environment, seconds=1200)
    return [package / "target/debug/receiver"]


class Running:
    """A receiver on a port of the loopback address, ended with the block."""

    def __init__(self, command: list, folder: Path) -> None:
        self.held = HeldPort()
        self.port = self.held.number
        self.output = folder / "output"
        with self.output.open("wb") as output:
            environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PORT": str(self.port), "SECRET": SECRET}
            self.process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, env=environment)

    def __enter__(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            need(self.process.poll() is None, f"it ended: {self.output.read_text()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        self.__exit__()
        need(False, f"it did not listen within {PATIENCE} s")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.held.release()

    def post(self, headers: dict, body: bytes = b'{"id":"e","type":"change"}', connection=None):
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/callbacks", body, {"Content-Type": "application/json; charset=utf-8", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer

    def signed(self, delivery: str, secret: str = SECRET, age: int = 0, body: bytes = b'{"id":"e"}', extra: str = "") -> dict:
        timestamp = int(time.time()) - age
        return {"webhook-id": delivery, "webhook-timestamp": str(timestamp), "webhook-signature": sign(secret, delivery, timestamp, body) + extra, "X-XCOM-Integration-Echo": f"echo-{delivery}"}


def behaves(start) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Running(start(folder), folder) as receiver:
            body = '{"name":"Ünïcode ✓"}'.encode()
            answer = receiver.post(receiver.signed("d-1", body=body), body)
            need(answer.status == 200, f"a signed request was answered with {answer.status}")
            need(answer.headers.get_all("X-XCOM-Integration-Echo") == ["echo-d-1"], f"the echo is {answer.headers.get_all('X-XCOM-Integration-Echo')}")
            # Again on one kept connection: known, and still acknowledged.
            connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
            for delivery in ("d-1", "d-2"):
                answer = receiver.post(receiver.signed(delivery, body=body), body, connection)
                need(answer.status == 200 and answer.headers["X-XCOM-Integration-Echo"] == f"echo-{delivery}", f"{delivery}: {answer.status}")
            # During an exchange of secrets one of several signatures fits.
            both = receiver.signed("d-3", OTHER)
            both["webhook-signature"] += " " + receiver.signed("d-3")["webhook-signature"]
            need(receiver.post(both, b'{"id":"e"}').status == 200, "one of two signatures fits and it was refused")
            for what, headers, sent in (
                ("another secret's signature", receiver.signed("x-1", OTHER), b'{"id":"e"}'),
                ("another body", receiver.signed("x-2"), b'{"id":"f"}'),
                ("an old request", receiver.signed("x-3", age=400), b'{"id":"e"}'),
                ("a request from the future", receiver.signed("x-4", age=-400), b'{"id":"e"}'),
                ("no signature", {"webhook-id": "x-5", "webhook-timestamp": str(int(time.time()))}, b'{"id":"e"}'),
                ("no headers", {}, b'{"id":"e"}'),
                ("a timestamp that is not a number", receiver.signed("x-6") | {"webhook-timestamp": "soon"}, b'{"id":"e"}'),
                ("another id", receiver.signed("x-7") | {"webhook-id": "x-8"}, b'{"id":"e"}'),
                ("an empty signature", receiver.signed("x-9") | {"webhook-signature": "v1,"}, b'{"id":"e"}'),
            ):
                answer = receiver.post(headers, sent)
                need(answer.status == 401, f"{what} was answered with {answer.status}")
                need(answer.headers["X-XCOM-Integration-Echo"] is None, f"{what} was echoed")
            large = b"x" * (2 * 1024 * 1024 + 1)
            try:
                status = receiver.post(receiver.signed("l-1", body=large), large).status
            except (BrokenPipeError, ConnectionResetError):
                status = 413
            need(status == 413, f"a body over the limit was answered with {status}")
            need(receiver.post(receiver.signed("d-4")).status == 401, "the body was not looked at")
            need(receiver.post(receiver.signed("d-4"), b'{"id":"e"}').status == 200, "it did not go on after refusals")
        output = receiver.output.read_text()
        need(output.count("accepted d-1,") == 1, f"d-1 was accepted {output.count('accepted d-1,')} times:\n{output}")
        need("accepted d-4," in output and "x-" not in output, output)
        need(SECRET not in output and SECRET.removeprefix("whsec_") not in output, "the secret is in the log")


def by_hand() -> None:
    """The page's command that signs, against the first of its receivers."""
    (script,) = (code for (_, language), code in blocks().items() if language == "bash" and "openssl dgst" in code)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Running(python(folder), folder) as receiver:
            environment = dict(os.environ, SECRET=SECRET, PORT=str(receiver.port))
            output = run("bash", "-euo", "pipefail", "-c", script, env=environment).stdout.lower()
            need(" 200 " in output.splitlines()[0] and "x-xcom-integration-echo: abc" in output, output)


class Recorder:
    """An endpoint that acknowledges everything and keeps it as it came."""

    def __init__(self) -> None:
        self.requests = requests = []

        class Kept(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                requests.append((dict(self.headers.items()), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.send_header("X-XCOM-Integration-Echo", self.headers["x-xcom-integration-echo"])
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Kept)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


EVENTS = 5


def delivered(world: World, recorder: Recorder, number: int, start) -> None:
    """The `number`th to be registered, after the recorder: a worker's own deliveries come to it, and what the worker signed is refused when a byte of it is another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Running(start(folder), folder) as receiver:
            before = world.metric('hookstream_deliveries_total{outcome="acknowledged"}')
            world.register(number, f"http://127.0.0.1:{receiver.port}/crm/v1", SECRET)
            until("the worker to know it", lambda: world.metric('hookstream_webhooks{state="enabled"}') == number + 1)
            recorded = len(recorder.requests)
            world.events(EVENTS)
            until("all of them to be recorded", lambda: len(recorder.requests) >= recorded + EVENTS)
            until("all of them to be accepted", lambda: receiver.output.read_text().count("accepted msg_") == EVENTS)
            # Those before it have ended and do not fit any more; it and the recorder accept all of theirs.
            until("the worker to count them", lambda: world.metric('hookstream_deliveries_total{outcome="acknowledged"}') == before + 2 * EVENTS, 30)
            for headers, body in recorder.requests[recorded:]:
                need(headers["webhook-signature"].startswith("v1,"), f"the worker did not sign: {headers}")
                kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
                for what, changed in (("another byte", body.replace(b'"change"', b'"chance"', 1)), ("one byte more", body + b" "), ("nothing", b"")):
                    need(changed != body, f"{body} is not what was expected")
                    answer = receiver.post(kept, changed)
                    need(answer.status == 401 and answer.headers["X-XCOM-Integration-Echo"] is None, f"what the worker signed with {what} was answered with {answer.status}")
                answer = receiver.post(kept, body)
                need(answer.status == 200, f"what the worker signed was answered with {answer.status} when it came as it was")
                need(answer.headers["X-XCOM-Integration-Echo"] == headers["x-xcom-integration-echo"], "it was not echoed")


LANGUAGES = (("Python", "python3", python), ("Node", "node", node), ("Go", "go", go), ("Rust", "cargo", rust))


def check(report: Report) -> None:
    report.check("this test signs as the specification's example does", lambda: need(sign(SECRET, *PUBLISHED[:3]) == PUBLISHED[3], "it does not"))
    there = []
    for language, program, start in LANGUAGES:
        if shutil.which(program) is None:
            report.skip(f"the receiver in {language}", f"there is no {program} on this machine")
            continue
        there.append((language, start))
        report.check(f"the receiver in {language} believes what is signed, echoes it, and nothing else", behaves, start)
    report.check("the request by hand is acknowledged", by_hand)
    with tempfile.TemporaryDirectory(prefix="hookstream-world-") as name:
        world, recorder = World(Path(name)), Recorder()
        try:
            if report.check("a worker runs to deliver to them", world.start):
                world.register(0, recorder.url, SECRET)
                for number, (language, start) in enumerate(there, 1):
                    report.check(f"the receiver in {language} acknowledges what a worker delivers, and refuses it changed", delivered, world, recorder, number, start)
        finally:
            world.close()
            recorder.close()


if __name__ == "__main__":
    write_out(Path(sys.argv[1]))
