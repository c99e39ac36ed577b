"""Checks the completions of zsh and fish, and the manual page. tests/cli.rs checks those of bash."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import tempfile
import termios
from pathlib import Path

from processes import binary, until
from report import Failure, Report, must, need

# The typed text, and the shell's completion if only one word fits.
TYPED = {
    "hookstream tra": "hookstream trace",
    "hookstream dead-letters red": "hookstream dead-letters redrive",
    "hookstream dead-letters redrive --skip": "hookstream dead-letters redrive --skip-sent",
    "hookstream attempts --workspace acme --ent": "hookstream attempts --workspace acme --entity",
    "hookstream trace e-1 --works": "hookstream trace e-1 --workspace",
    "hookstream completions fi": "hookstream completions fish",
}


def check(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for typed, expected in TYPED.items():
            report.check(f"zsh completes `{typed}`", zsh, Path(folder), typed, expected)
            report.check(f"fish completes `{typed}`", fish, Path(folder), typed, expected)
    report.check("the manual page has no mistakes", manual)


def environment(folder: Path) -> dict:
    path = f"{Path(binary()).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8"}


def fish(folder: Path, typed: str, expected: str) -> None:
    script = f"hookstream completions fish | source; complete -C '{typed}'"
    offered = must("fish", "--no-config", "-c", script, env=environment(folder)).splitlines()
    words = [line.split("\t")[0].removesuffix("=") for line in offered]
    need(words == [expected.split()[-1]], f"fish offers {words}")


def zsh(folder: Path, typed: str, expected: str) -> None:
    (folder / "_hookstream").write_text(must(binary(), "completions", "zsh"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment(folder), start_new_session=True
    )
    os.close(slave)
    os.set_blocking(master, False)
    shown = ""

    def shows(text: str) -> bool:
        nonlocal shown
        try:
            shown += os.read(master, 65536).decode(errors="replace")
        except BlockingIOError:
            pass
        return text in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\b]", "", shown)

    try:
        setup = f"PS1='now: '; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; echo is-${{:-ready}}"
        os.write(master, setup.encode() + b"\n")
        until("a zsh with completion", lambda: shows("is-ready"), 30)
        shown = ""
        # Where a word has a description, the first tab shows it and the second takes it.
        os.write(master, typed.encode() + b"\t\t")
        until(f"`{expected}` in zsh", lambda: shows(expected), 30)
    except Failure as failure:
        raise Failure(f"{failure}; it shows {shown!r}") from None
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def manual() -> None:
    page = must(binary(), "man")
    done = subprocess.run(
        ["groff", "-Kutf8", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    need(done.returncode == 0 and not done.stderr, done.stderr)
    need(page.startswith(".TH"), "it begins with no title")
