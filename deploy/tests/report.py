"""Counts the checks, reports which failed and why, and ends with a line that other programs can read."""

import subprocess
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class Failure(Exception):
    """A failed check; its text has all that a person needs to repair it."""


class Report:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.name = ""

    def section(self, name: str) -> None:
        self.name = name

    def check(self, claim: str, function, *arguments) -> object:
        """Runs one check. Whatever it raises is a failure of this claim alone; the others go on."""
        try:
            result = function(*arguments)
        except Failure as failure:
            self._fail(claim, str(failure))
        except Exception:
            self._fail(claim, traceback.format_exc())
        else:
            self.passed += 1
            print(f"ok    {self.name}: {claim}", flush=True)
            return result
        return None

    def skip(self, claim: str, why: str) -> None:
        self.skipped += 1
        print(f"SKIP  {self.name}: {claim}: NOT CHECKED, {why}", flush=True)

    def _fail(self, claim: str, why: str) -> None:
        self.failed += 1
        print(f"FAIL  {self.name}: {claim}", flush=True)
        for line in why.rstrip().splitlines():
            print(f"        {line}", flush=True)

    def close(self) -> int:
        if self.passed + self.failed == 0:
            print("nothing was checked")
            return 1
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"\n{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        return 1 if self.failed else 0


def need(condition: object, text: str) -> None:
    if not condition:
        raise Failure(text)


def run(*command: object, seconds: int = 120, **options) -> subprocess.CompletedProcess:
    """Runs a program to its end, bounded; the caller judges its exit code."""
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=seconds, check=False, **options
    )


def must(*command: object, **options) -> str:
    done = run(*command, **options)
    need(done.returncode == 0, f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
