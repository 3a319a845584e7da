"""Run the project's checks and tests: two lanes side by side, then what wants the machine to itself.

usage: make lint, make test (they set up what this needs, and the caches' places)

A line a step as it ends; the whole output of each is in build/logs. The first step that fails ends the run, and what
it said is printed. Steps whose folder is not there are left out. The last line counts tests.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import reports

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LONG = os.environ.get("DSPEX_LONG", "") not in ("", "0")
EXAMPLES = (
    "examples/chat",
    "examples/fastapi",
    "examples/jobs",
    "examples/optimise",
    "examples/parallel",
    "examples/statsd",
)
STILL_RUNNING_EVERY = 30.0  # seconds between two lines that say what is still going on
GRACE = 5.0  # seconds between asking a step to end and ending it


@dataclass(frozen=True)
class Step:
    """One command. ``report`` reads what it printed, where it runs tests."""

    name: str
    command: Sequence[str | Path]
    report: reports.Reader | None = None

    @property
    def log(self) -> Path:
        return BUILD / "logs" / f"{self.name.replace(' ', '-').replace('/', '-')}.log"


class Failed(Exception):
    """A step failed; what there is to say has been printed."""


def tool(name: str) -> Path:
    return BUILD / "venv" / "bin" / name


def present(*folders: str) -> list[str]:
    return [folder for folder in folders if any((ROOT / folder).rglob("*.py"))]


def with_tests(*folders: str) -> list[str]:
    return [folder for folder in folders if any((ROOT / folder).rglob("test_*.py"))]


def go_lint() -> list[Step]:
    return [
        Step("go mod tidy", ["go", "mod", "tidy", "-diff"]),
        Step("golangci-lint", [BUILD / "tools" / "golangci-lint", "run", "./..."]),
    ]


def go_tests() -> list[Step]:
    limit = "40m" if LONG else "5m"
    # -count=1: what a test starts (Python, the binary) is no part of the key of Go's cache.
    command = ["go", "test", "-race", "-shuffle=on", "-count=1", f"-timeout={limit}", "-json", "./..."]
    return [Step("go test", command, reports.go)]


def python_lint() -> list[Step]:
    steps = [
        Step("ruff check", [tool("ruff"), "check", "."]),
        Step("ruff format", [tool("ruff"), "format", "--check", "."]),
    ]
    # One run a tree: each has a conftest.py of its own.
    trees = (("clients/python/src", "clients/python/tests"), ("python/src", "python/tests"))
    for tree in (*trees, ("scripts",), ("examples/demo",), ("examples/dspy",), EXAMPLES, ("bench",), ("tests",)):
        if folders := present(*tree):
            # Tests import helpers from beside them by plain name, and the project's packages from where they lie.
            # Those end to end use the helpers of python/tests too.
            helpers = (tree[-1], "python/tests") if tree == ("tests",) else (tree[-1],)
            path = ":".join(("clients/python/src", "python/src", *helpers))
            steps.append(
                Step(f"mypy {tree[0].removesuffix('/src')}", ["env", f"MYPYPATH={path}", tool("mypy"), *folders])
            )
    # Of both clients: it takes the compiler of Node's.
    return [*steps, Step("reference pages", [tool("python"), "scripts/reference.py", "--check"])]


def pytest(name: str, *folders: str) -> list[Step]:
    found = with_tests(*folders)
    return [Step(name, [tool("pytest"), *found], reports.pytest)] if found else []


def npm(name: str, *arguments: str, report: reports.Reader | None = None) -> list[Step]:
    return [Step(name, ["npm", "--prefix", "clients/node", *arguments], report)]


def plan(what: str) -> list[list[list[Step]]]:
    """Return stages, one after the other, of lanes, side by side, of steps."""
    if what == "lint":
        return [[go_lint(), [*python_lint(), *npm("node lint", "run", "lint")]]]
    node = [*npm("node lint", "run", "lint"), *npm("node tests", "test", report=reports.node)]
    units = pytest("pytest units", "clients/python/tests", "python/tests")
    return [
        [[*go_lint(), *go_tests()], [*python_lint(), *units, *node]],
        # Both wait more than they compute; the tests of faults have time limits, and get all else out of their way.
        [
            [*pytest("pytest conformance", "tests/e2e/conformance"), *pytest("pytest newcomer", "tests/e2e/newcomer")],
            pytest("pytest faults", "tests/e2e/faults"),
        ],
        # It compares times: alone, and even so it fails only where all of its rounds agree.
        [[Step("bench short", [tool("python"), "bench/short.py"], reports.bench)]],
    ]


class Run:
    """One run: what is going on, what has ended, and how the tests stand."""

    def __init__(self) -> None:
        self.running: dict[str, float] = {}
        self.total = reports.Counts()
        self.started = time.monotonic()

    async def stages(self, stages: list[list[list[Step]]]) -> None:
        heartbeat = asyncio.create_task(self.say_what_runs())
        try:
            for lanes in stages:
                async with asyncio.TaskGroup() as group:
                    for lane in lanes:
                        group.create_task(self.lane(lane))
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)

    async def lane(self, steps: list[Step]) -> None:
        for step in steps:
            await self.step(step)

    async def step(self, step: Step) -> None:
        began = self.running[step.name] = time.monotonic()
        try:
            code = await execute(step)
        finally:
            del self.running[step.name]
        took = f"{time.monotonic() - began:6.1f} s"
        output = step.log.read_text(errors="replace")
        report = step.report(output) if step.report else reports.Report(output)
        self.total += report.counts
        say("ok  " if code == 0 else "FAIL", f"{step.name:<24}{took}  {report.counts or ''}".rstrip())
        for line in report.told:
            say("    ", line)
        for line in report.skips:
            say("    ", f"skipped: {line}")
        if code != 0:
            print(f"\n{report.text.rstrip()}\n", flush=True)
            say("FAIL", f"{step.name}: exit code {code}; whole output in {step.log.relative_to(ROOT)}")
            raise Failed

    async def say_what_runs(self) -> None:
        for waited in itertools.count(1):
            await asyncio.sleep(self.started + waited * STILL_RUNNING_EVERY - time.monotonic())
            now = time.monotonic()
            going = ", ".join(f"{name} ({now - began:.0f} s)" for name, began in self.running.items())
            say("... ", going)


async def execute(step: Step) -> int:
    """Run the step's command in a process group of its own; cancelled, end all of the group."""
    step.log.parent.mkdir(parents=True, exist_ok=True)
    with step.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *step.command,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        signal_group(process.pid, signal.SIGINT)  # pytest and go test clean up after it
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        raise


def signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def say(mark: str, what: str) -> None:
    print(f"{mark}  {what}", flush=True)


async def main(what: str) -> int:
    """Return the exit code: 0, 1 where a step failed or no test ran, 130 when interrupted."""
    run = Run()
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    code = 0
    try:
        await run.stages(plan(what))
    except* Failed:
        code = 1
    except* asyncio.CancelledError:
        code = 130
    if what == "test" and not run.total.passed:
        code = code or 1
    result = "all checks passed" if code == 0 else "stopped at the first failure" if code == 1 else "interrupted"
    say("ok  " if code == 0 else "FAIL", f"{result} in {time.monotonic() - run.started:.0f} s")
    if what == "test":
        print(f"tests: {run.total}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
