"""`make demo`: dspex-sidecar from a client's side, in a few minutes, with a real language model.

TEXT='…' runs the programs on a text of yours; MODEL=openai/… uses that provider instead of the small local model.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import machine
from dspex import Client, Outputs, Program, Session
from dspex.errors import DspexError, InvalidParams

TRIAGE = {
    "description": "Sort a customer's message.",
    "inputs": [{"name": "message"}],
    "outputs": [
        {"name": "topic", "type": 'Literal["billing", "delivery", "technical", "praise"]'},
        {"name": "urgent", "type": "bool"},
    ],
}
FACTS = {
    "description": "Copy the facts out of the text.",
    "inputs": [{"name": "text"}],
    "outputs": [
        {"name": "names", "type": "list[str]", "description": "names of people"},
        {"name": "places", "type": "list[str]", "description": "names of places"},
        {"name": "year", "type": "int | None"},
    ],
}
EXPLAIN = {
    "description": "Explain the text to a child.",
    "inputs": [{"name": "text"}],
    "outputs": [{"name": "explanation", "type": "list[str]", "description": "sentences"}],
}
NAMES = ("ada", "grace", "alan", "edsger")
_PATIENCE = 120.0  # seconds for one call, on a slow machine


def main() -> int:
    model = os.environ.get("DSPEX_DEMO_MODEL") or None
    own = os.environ.get("DSPEX_DEMO_TEXT") or None
    before = machine.files()
    config = machine.configuration(model)
    say(__doc__ or "")
    with machine.Sidecar(config) as sidecar:
        sidecar.wait_until_it_listens()
        with Client(machine.SOCKET, timeout=_PATIENCE, name="demo") as client:
            ready(client, sidecar, config, model)
            tour = programs_at_run_time(client, own, model)
            sessions = sessions_side_by_side(client, own)
            a_worker_dies(client, sessions, own)
            the_application(client, own)
            a_stream(tour, own)
            end(client, [tour, *sessions])
        seconds = sidecar.stop()
        left = sidecar.left_running()
    return check(seconds, left, before)


def ready(client: Client, sidecar: machine.Sidecar, config: Path, model: str | None) -> None:
    section("1. The sidecar starts", "One Go process. It keeps four Python workers warm, each with DSPy loaded.")
    begun = time.monotonic()
    while (health := client.call("sidecar.health"))["status"] != "healthy":
        if time.monotonic() - begun > _PATIENCE:
            raise SystemExit(f"demo: the workers do not get ready: {health}; see {machine.LOG}")
        time.sleep(0.05)
    told = ", ".join(
        f"{worker['worker']} (pid {worker['pid']})" for worker in client.call("sidecar.workers")["workers"]
    )
    show("configuration", config.relative_to(machine.ROOT))
    show("model", model or "SmolLM2-135M by llama.cpp, on this machine: no key, no download")
    show("workers", told)
    show("ready after", f"{time.monotonic() - sidecar.begun:.1f} s; {sidecar.count_processes()} processes in all")


def programs_at_run_time(client: Client, own: str | None, model: str | None) -> Session:
    section(
        "2. Programs made at run time",
        "A client makes a session and, in it, DSPy programs from signatures with typed outputs. No Python file changes."
        + (
            ""
            if model
            else " The types always hold; how well a model of 135 million parameters judges is another matter."
        ),
    )
    session = client.create_session("tour")
    triage = session.create_program("triage", TRIAGE)
    facts = session.create_program("facts", FACTS)
    for program in (triage, facts):
        show(f"program {program.id}", program.info()["signature"])
    execute(triage, "in session tour", message=own or text("message"))
    execute(facts, "in session tour", text=own or text("curie"))
    try:
        facts(txt=5)
    except InvalidParams as error:
        show("wrong inputs", f"{error} (no LM was asked)")
    return session


def sessions_side_by_side(client: Client, own: str | None) -> list[Session]:
    section(
        "3. Sessions side by side",
        "Each session is pinned to a worker: its calls go there, one at a time; other sessions run beside it.",
    )
    begun = time.monotonic()

    def begin(name: str) -> tuple[Session, Outputs]:
        session = client.create_session(name)
        session.call("remember", {"note": f"I am {name}."})
        return session, session.create_program("facts", FACTS)(text=own or text("curie"))

    with ThreadPoolExecutor(len(NAMES)) as pool:
        try:
            begun_sessions = list(pool.map(begin, NAMES))
        except BaseException:
            client.close()  # Ctrl-C, say: the threads' calls end with it, else the pool would wait for them
            raise
    for session, outputs in begun_sessions:
        show(f"session {session.id}", f"on {session.info()['worker']}: {brief(outputs)}")
    show("all four", f"{time.monotonic() - begun:.1f} s")
    show_workers(client)
    return [session for session, _ in begun_sessions]


def a_worker_dies(client: Client, sessions: list[Session], own: str | None) -> None:
    section(
        "4. A worker is killed",
        "kill -9, as when memory runs out. The state of its sessions is in the sidecar: they go on elsewhere.",
    )
    victim = sessions[0].info()["worker"]
    pid = next(worker["pid"] for worker in client.call("sidecar.workers")["workers"] if worker["worker"] == victim)
    moved = [session for session in sessions if session.info()["worker"] == victim]
    os.kill(pid, signal.SIGKILL)
    show("killed", f"{victim} (pid {pid}), with the sessions {', '.join(session.id for session in moved)}")
    for session in moved:
        programs = [program["program"] for program in session.programs() if program["scope"] == "session"]
        reply = session.request("remember", {"note": "Still here."})
        show(f"session {session.id}", f"now on {reply.meta.get('worker')}, programs {programs}, {reply.result} notes")
        if programs != ["facts"] or reply.result != 2:
            raise SystemExit(f"demo: session {session.id} lost something")
        execute(session.program("facts"), f"in session {session.id}", text=own or text("curie"))
    show_workers(client)


def the_application(client: Client, own: str | None) -> None:
    section(
        "5. The application's own",
        "examples/demo/app.py registers a dspy.Module of its own for everybody, and plain Python functions as methods.",
    )
    digest = client.program("digest")
    info = digest.info()
    show("program digest", f"{info['signature']} ({info['module']}, scope {info['scope']})")
    execute(digest, "without a session", text=own or text("curie"))
    print("\n  call count_words, then stream sentences")
    show("count_words", brief(client.call("count_words", {"text": own or text("story")})))
    for sentence in client.stream("sentences", {"text": own or text("story")}):
        show("sentence", sentence, "·")


def a_stream(session: Session, own: str | None) -> None:
    section(
        "6. A streamed answer",
        "The text comes as the model writes it (of a list, its JSON); the response brings the typed outputs.",
    )
    explain = session.create_program("explain", EXPLAIN)
    show("program explain", explain.info()["signature"])
    begun, first, pieces = time.monotonic(), 0.0, 0
    print("\n      ", end="", flush=True)
    stream = explain.stream(text=own or text("story"))
    for item in stream:
        if item["type"] == "delta":
            first, pieces = first or time.monotonic() - begun, pieces + 1
            print(item["text"].replace("\n", "\n      "), end="", flush=True)
    print("\n")
    show("timing", f"first piece after {first:.2f} s, {pieces} pieces in {time.monotonic() - begun:.2f} s")
    for name, value in stream.result.items():
        show(name, f"{value!r}  ({type(value).__name__})", "←")


def end(client: Client, sessions: list[Session]) -> None:
    section("7. The end", "Sessions are ended, and the sidecar says what it did.")
    for session in sessions:
        session.end()
    show("statistics", brief(client.call("sidecar.stats")))


def check(seconds: float, left: list[int], before: set[Path]) -> int:
    made = sorted(str(path) for path in machine.files() - before)
    show("stopped", f"in {seconds:.1f} s")
    show("processes left", ", ".join(map(str, left)) or "none")
    show("files left", f"{', '.join(made) or 'none'} (outside build/)")
    print()
    return 1 if left else 0  # a file may be somebody else's


def execute(program: Program, where: str, **inputs: Any) -> None:
    """Execute a program and show all of it."""
    begun = time.monotonic()
    outputs = program(**inputs)
    milliseconds = (time.monotonic() - begun) * 1000
    meta, usage = outputs.meta, outputs.meta.get("usage") or {}
    print(f"\n  execute {program.id} {where}")
    for name, value in inputs.items():
        show(name, value, "→")
    for name, value in outputs.items():
        show(name, f"{value!r}  ({type(value).__name__})", "←")
    took = (
        f"{milliseconds:.0f} ms (waited {meta.get('queue_us', 0) / 1000:.1f}, ran {meta.get('run_us', 0) / 1000:.0f})"
    )
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    show("on", f"{meta.get('worker')}, {took}, {counted(usage.get('lm_calls', 0), 'LM call')}, {tokens}")


def show_workers(client: Client) -> None:
    print()
    for worker in client.call("sidecar.workers")["workers"]:
        told = f"{worker['state']}, {counted(worker['sessions'], 'session')}, {counted(worker['calls'], 'call')}"
        show(worker["worker"], f"pid {worker['pid']}, {told}")


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def text(name: str) -> str:
    return " ".join((machine.HERE / "texts" / f"{name}.txt").read_text().split())


def brief(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())


def section(title: str, explanation: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")
    say(explanation)
    print()


def say(words: str) -> None:
    for paragraph in words.strip().split("\n\n"):
        print(textwrap.fill(" ".join(paragraph.split()), _width(), initial_indent="  ", subsequent_indent="  "))


def show(name: str, value: object, arrow: str = " ") -> None:
    start = f"    {arrow} {name:<16} "
    print(
        textwrap.fill(str(value), _width(), initial_indent=start, subsequent_indent=" " * len(start)) or start.rstrip()
    )


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DspexError as error:
        hint = ""
        if error.details.get("type") == "ContextWindowExceededError":
            hint = "\n      the text is too long for this model: give a shorter TEXT, or a larger MODEL"
        sys.exit(f"\ndemo: {error}; the sidecar's log is {machine.LOG}{hint}")
    except KeyboardInterrupt:
        sys.exit(130)
