"""A real API server of Kubernetes with its etcd, on loopback, which checks the chart's objects and creates none of them."""

import http.client
import json
import os
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from processes import HeldPort
from report import must, need

TOKEN = "of-this-test-alone"
# Starting takes three seconds on an idle machine.
START_SECONDS = 120


class ApiServer:
    """Runs within a `with`."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="hookstream-apiserver-")
        self.processes = []
        self.held = [HeldPort() for _ in range(3)]
        self.port, self.etcd_port, self.peer_port = (held.number for held in self.held)
        self.plurals = {}

    def __enter__(self) -> "ApiServer":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for held in self.held:
            held.release()
        self.folder.cleanup()

    def _run(self, name: str, *command: str) -> None:
        log = open(Path(self.folder.name) / f"{name}.log", "w")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder.name))
        log.close()

    def _start(self) -> None:
        home = Path(self.folder.name)
        etcd, peers = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        self._run(
            "etcd", "etcd", "--data-dir", str(home / "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}",
        )
        must("openssl", "genrsa", "-out", home / "accounts.key", "2048")
        (home / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        # Without the part that makes service accounts there are none to run under.
        self._run(
            "kube-apiserver", os.environ["KUBERNETES"] + "/kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1",
            f"--secure-port={self.port}", f"--cert-dir={home}/certificates", "--service-cluster-ip-range=10.96.0.0/16",
            "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", "--authorization-mode=RBAC", f"--token-auth-file={home}/tokens.csv",
            f"--service-account-key-file={home}/accounts.key", f"--service-account-signing-key-file={home}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--disable-admission-plugins=ServiceAccount",
        )
        self._until(lambda: self.request("GET", "/readyz")[0] == 200, "ready")

    def _until(self, condition, what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if condition():
                    return
            except (OSError, http.client.HTTPException):
                pass
            for process in self.processes:
                need(process.poll() is None, f"{process.args[0]} ended:\n{self._logs()}")
            need(time.monotonic() < deadline, f"the API server is not {what} after {START_SECONDS} s:\n{self._logs()}")
            time.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in Path(self.folder.name).glob("*.log"))

    def request(self, method: str, path: str, body: object = None) -> tuple:
        """The status, the answer, and the warnings in its headers."""
        # Its certificate is made at its start, for this process alone.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, path, text, {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
            answer = connection.getresponse()
            warnings = [value for name, value in answer.getheaders() if name.lower() == "warning"]
            content = answer.read()
            is_json = "json" in (answer.getheader("Content-Type") or "")
            return answer.status, json.loads(content) if is_json else content.decode(), warnings
        finally:
            connection.close()

    def create(self, item: dict, query: str = "") -> tuple:
        return self.request("POST", self._path(item) + query, item)

    def must_create(self, item: dict) -> None:
        status, answer, _ = self.create(item)
        need(status in (200, 201), f"{item['kind']} {item['metadata']['name']}: {status} {answer}")

    def _path(self, item: dict) -> str:
        group = item["apiVersion"]
        base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        if base not in self.plurals:
            status, answer, _ = self.request("GET", base)
            need(status == 200, f"the API server does not know {group}")
            self.plurals[base] = {known["kind"]: known for known in answer["resources"] if "/" not in known["name"]}
        known = self.plurals[base].get(item["kind"])
        need(known, f"the API server knows no {item['kind']} in {group}")
        if known["namespaced"]:
            base += f"/namespaces/{item['metadata']['namespace']}"
        return f"{base}/{known['name']}"

    def install(self, crds: Path) -> None:
        """Makes the custom resources of a folder known."""
        files = sorted(crds.glob("*.yaml"))
        need(files, f"{crds} is empty")
        for file in files:
            item = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            self.must_create(item)
            path = f"/apis/{item['spec']['group']}/{item['spec']['versions'][0]['name']}"
            plural = item["spec"]["names"]["plural"]
            self._until(
                lambda: any(known["name"] == plural for known in self._resources(path)), f"ready for {plural}",
            )

    def _resources(self, path: str) -> list:
        status, answer, _ = self.request("GET", path)
        return answer["resources"] if status == 200 else []

    def judge(self, item: dict) -> list:
        """The faults of an object that its creation would report, unknown and repeated fields included."""
        status, answer, warnings = self.create(item, "?dryRun=All&fieldValidation=Strict")
        name = f"{item['kind']} {item['metadata']['name']}"
        faults = [f"{name}: {warning}" for warning in warnings]
        if status not in (200, 201):
            faults.append(f"{name}: {status} {answer.get('message', answer) if isinstance(answer, dict) else answer}")
        return faults
