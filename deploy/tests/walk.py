"""Walks through a page's commands as a reader does, in terminals of its own, and waits for the output that the page shows.

A ```bash block is typed into the reader's terminal, or into the one that its first line names (`# terminal 2`); if a program
runs there, Ctrl-C ends it first. A ```text block is what then appears, line after line; `…` matches anything.
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

from processes import PATIENCE, die_with_us, until
from report import ROOT, Failure, need

# Commands that only read: they may be typed again until the expected output has come.
LOOKS = re.compile(r"\b(list|logs)\b|^curl -s http\S+$", re.M)


def blocks(heading: str, page: Path = ROOT / "README.md") -> list:
    """(language, text) of the code blocks under a heading of a page."""
    found = re.search(rf"^### {re.escape(heading)}$(.*?)(?=^##)", page.read_text(), re.S | re.M)
    need(found, f"{page.name} has no heading {heading}")
    taken = re.findall(r"^```(bash|text)\n(.*?)^```$", found[1], re.S | re.M)
    need(taken, f"there is nothing to type under {heading}")
    return taken


class Terminal:
    """A shell at a terminal, and the text on its screen."""

    def __init__(self, environment: dict, folder: Path, name: str) -> None:
        self.name, self.folder, self.number, self.busy, self.shown, self.seen = name, folder, 0, False, "", 0
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

        def child() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            die_with_us()

        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
            env=environment | {"TERM": "dumb", "PS1": "", "PS2": ""}, preexec_fn=child,
        )
        os.close(slave)
        threading.Thread(target=self.read, daemon=True).start()
        self.type("stty -echo; set -E; trap 'failed=1' ERR")

    def read(self) -> None:
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return
            if not piece:
                return
            text = piece.decode(errors="replace").replace("\r", "")
            self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")

    def interrupt(self) -> None:
        if self.busy:
            os.write(self.master, b"\x03")
            self.done(40)

    def run(self, text: str) -> None:
        self.interrupt()
        self.number += 1
        script = self.folder / f"{self.name}-{self.number}.sh"
        script.write_text(text)
        self.seen, self.busy = len(self.shown), True
        self.type(f'failed=0; . {script}; echo; echo "block {self.number} has" "ended: $failed"')

    def done(self, seconds: float = PATIENCE) -> int:
        marker = re.compile(rf"block {self.number} has ended: (\d)")
        code = until(f"the end of a block in {self.name}", lambda: marker.search(self.shown) or self.alive(), seconds)
        self.busy = False
        return int(code[1])

    def alive(self) -> bool:
        need(self.shell.poll() is None, f"the shell of {self.name} has ended")
        raise Failure(self.tail())

    def tail(self) -> str:
        return f"on the screen of {self.name}:\n" + "\n".join(self.shown[self.seen:].splitlines()[-25:])

    def shows(self, lines: list) -> bool:
        """Whether these lines stand there in this order, other lines between them or not."""
        left = iter(self.shown[self.seen:].splitlines())
        return all(any(re.fullmatch(line, shown.rstrip()) for shown in left) for line in lines)

    def close(self) -> None:
        """Whatever runs here ends: every process of this terminal's session, by its id."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
            except (OSError, IndexError):
                continue
            if session == str(self.shell.pid) and int(entry.name) != self.shell.pid:
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.shell.kill()
        self.shell.wait()
        os.close(self.master)


def pattern(line: str) -> str:
    """A line of a page as an expression: `…` and runs of spaces may be anything and any number."""
    parts = [r"\s+".join(re.escape(word) for word in part.split(" ")) for part in line.rstrip().split("…")]
    return ".*?".join(parts).replace(r"\s+.*?\s+", r".*?") + (".*" if line.rstrip().endswith("…") else "")


class Walk:
    """A reader with terminals."""

    def __init__(
        self, folder: Path, replaced: dict, path: Path | None = None, environment: dict | None = None, shown: dict | None = None,
    ) -> None:
        """`shown` are placeholders that the reader replaces by a text on the terminal: the first group of an expression."""
        self.folder, self.replaced, self.terminals, self.shown = folder, replaced, {}, shown or {}
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "CARGO_TARGET_DIR") if name in os.environ}
        if path:
            self.environment["PATH"] = f"{path}:{self.environment['PATH']}"
        # The files of a killed program are removed with the folder.
        self.environment |= {"TMPDIR": str(folder)} | (environment or {})

    def here(self, text: str) -> str:
        for word, expression in self.shown.items():
            if word in text:
                screens = "\n".join(terminal.shown for terminal in self.terminals.values())
                there = re.search(expression, screens, re.M)
                need(there, f"no terminal shows {word}")
                text = text.replace(word, there[1])
        for there, here in self.replaced.items():
            text = re.sub(rf"(?<![\w.]){re.escape(there)}(?!\d)", here, text)
        return text

    def terminal(self, name: str) -> Terminal:
        if name not in self.terminals:
            self.terminals[name] = Terminal(self.environment, self.folder, name)
        return self.terminals[name]

    def run(self, page_blocks: list) -> None:
        """Types and reads all of it. At the end each terminal's program is ended with Ctrl-C."""
        try:
            current, last = None, ""
            for language, text in page_blocks:
                named = re.match(r"# (terminal \d+)\n", text)
                if language == "bash":
                    name, last = named[1] if named else "your terminal", self.here(text)
                    current = self.terminal(name.replace(" ", "-"))
                    current.run(last)
                    if not named:
                        need(current.done(1800) == 0, f"a command failed: {last}\n{current.tail()}")
                else:
                    there = self.terminal(named[1].replace(" ", "-")) if named else current
                    self.expect(there, self.here(text[named.end():] if named else text), last if there is current and not named else "")
            for terminal in reversed(self.terminals.values()):
                terminal.interrupt()
        finally:
            for terminal in self.terminals.values():
                terminal.close()

    def expect(self, terminal: Terminal, text: str, typed: str) -> None:
        lines = [pattern(line) for line in text.splitlines() if line.strip()]
        deadline = time.monotonic() + PATIENCE
        while not terminal.shows(lines):
            need(time.monotonic() < deadline, f"what the page says one sees has not come:\n{text}\n{terminal.tail()}")
            if typed and LOOKS.search(typed):
                time.sleep(1)
                terminal.run(typed)
                need(terminal.done() == 0, f"a command failed: {typed}\n{terminal.tail()}")
            else:
                time.sleep(0.1)
