"""Read what the test runners print: how many tests, which were skipped and why, what the failed ones said."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counts:
    """Numbers of tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __bool__(self) -> bool:
        return self != Counts()

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Report:
    """What a step's output says: ``text`` is what to show when it failed, ``told`` what to show in any case."""

    text: str
    counts: Counts = Counts()
    skips: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


Reader = Callable[[str], Report]


def go(output: str) -> Report:
    """Read the events of ``go test -json``. Lines that are none (a failed build's) are shown as they are."""
    said: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    ended: dict[tuple[str, str], str] = {}
    plain: list[str] = []
    for line in output.splitlines():
        if not line.startswith("{"):
            plain.append(line + "\n")
            continue
        event = json.loads(line)
        key = (event.get("Package", ""), event.get("Test", ""))
        match event["Action"]:
            case "output":
                said[key].append(event["Output"])
            case "build-output":
                plain.append(event["Output"])
            case "pass" | "fail" | "skip":
                ended[key] = event["Action"]
    # A test that neither passed nor failed was cut off with its package: a crash, or the time limit.
    cut_off = [key for key in said if key[1] and key not in ended]
    tests = [outcome for (_, test), outcome in ended.items() if test]
    counts = Counts(tests.count("pass"), tests.count("fail") + len(cut_off), tests.count("skip"))
    failed = [key for key in sorted(ended) if ended[key] == "fail"]
    text = "".join(plain) + "".join("".join(said[key]) for key in [*cut_off, *failed])
    skips = [f"{key[1]}: {reason(said[key])}" for key, outcome in ended.items() if key[1] and outcome == "skip"]
    return Report(text, counts, skips)


def reason(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines if not line.lstrip().startswith(("=== ", "--- ")))


def pytest(output: str) -> Report:
    """Read pytest's closing line, `=== 3 failed, 40 passed, 1 error in 2.10s ===`, and the skips that -ra lists."""
    lines = output.splitlines()
    closing = [line for line in lines if re.fullmatch(r"=+ .* in [\d.]+s.* =+", line)]
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", closing[-1])} if closing else {}
    failed = numbers.get("failed", 0) + numbers.get("error", 0) + numbers.get("errors", 0)
    counts = Counts(numbers.get("passed", 0), failed, numbers.get("skipped", 0))
    return Report(output, counts, [line.removeprefix("SKIPPED ") for line in lines if line.startswith("SKIPPED ")])


def node(output: str) -> Report:
    """Read the closing lines of ``node --test``: `# pass 12`, or `ℹ pass 12`."""
    numbers = {
        word: int(number) for word, number in re.findall(r"^[#ℹ] (pass|fail|skipped) (\d+)$", output, re.MULTILINE)
    }
    return Report(output, Counts(numbers.get("pass", 0), numbers.get("fail", 0), numbers.get("skipped", 0)))


def bench(output: str) -> Report:
    """Read the rows of bench/short.py, and its closing line."""
    *rows, closing = output.splitlines() or [""]
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", closing)}
    return Report(output, Counts(numbers.get("passed", 0), numbers.get("failed", 0)), told=rows)
