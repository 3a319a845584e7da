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
from dspex import Client, DspexError, Reply

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
    "outputs": [{"name": "explanation", "description": "several long sentences in plain words"}],
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
        start(sidecar, config, model)
        with Client(machine.SOCKET) as client:
            programs_at_run_time(client, own)
            sessions_side_by_side(client, own)
            a_worker_dies(client, own)
            the_application(client, own)
            a_stream(client, own)
            end(client)
        seconds = sidecar.stop()
        left = sidecar.left_running()
    return check(seconds, left, before)


def start(sidecar: machine.Sidecar, config: Path, model: str | None) -> None:
    section("1. The sidecar starts", "One Go process. It keeps four Python workers warm, each with DSPy loaded.")
    begun = time.monotonic()
    sidecar.wait_until_it_listens()
    with Client(machine.SOCKET) as client:
        while (health := client.call("sidecar.health").result)["status"] != "healthy":
            if time.monotonic() - begun > _PATIENCE:
                raise SystemExit(f"demo: the workers do not get ready: {health}; see {machine.LOG}")
            time.sleep(0.05)
        workers = client.call("sidecar.workers").result["workers"]
    show("configuration", config.relative_to(machine.ROOT))
    show("model", model or "SmolLM2-135M by llama.cpp, on this machine: no key, no download")
    show("workers ready", ", ".join(f"{w['worker']} (pid {w['pid']})" for w in workers))
    show("ready after", f"{time.monotonic() - begun:.1f} s; {sidecar.count_processes()} processes in all")


def programs_at_run_time(client: Client, own: str | None) -> None:
    section(
        "2. Programs made at run time",
        "A client makes a session and, in it, DSPy programs from signatures with typed outputs. No Python file changes."
        " The types always hold; how well a model of 135 million parameters judges is another matter.",
    )
    client.call("session.create", {"session": "tour"})
    for id, signature in (("triage", TRIAGE), ("facts", FACTS)):
        made = client.call("create_program", {"id": id, "signature": signature}, session="tour").result
        show(f"program {id}", made["signature"])
    execute(client, "tour", "triage", {"message": own or text("message")})
    execute(client, "tour", "facts", {"text": own or text("curie")})
    try:
        client.call("execute_program", {"program": "facts", "inputs": {"txt": 5}}, session="tour")
    except DspexError as error:
        show("wrong inputs", f"{error} (no LM was asked)")


def sessions_side_by_side(client: Client, own: str | None) -> None:
    section(
        "3. Sessions side by side",
        "Each session is pinned to a worker: its calls go there, one at a time; other sessions run beside it.",
    )
    begun = time.monotonic()

    def begin(name: str) -> Reply:
        client.call("session.create", {"session": name})
        client.call("create_program", {"id": "facts", "signature": FACTS}, session=name)
        client.call("remember", {"note": f"I am {name}."}, session=name)
        params = {"program": "facts", "inputs": {"text": own or text("curie")}}
        return client.call("execute_program", params, session=name, timeout=_PATIENCE)

    with ThreadPoolExecutor(len(NAMES)) as pool:
        replies = dict(zip(NAMES, pool.map(begin, NAMES), strict=True))
    for name, reply in replies.items():
        show(f"session {name}", f"{reply.meta.get('worker')}: {brief(reply.result)}")
    show("all four", f"{time.monotonic() - begun:.1f} s")
    workers(client)


def a_worker_dies(client: Client, own: str | None) -> None:
    section(
        "4. A worker is killed",
        "kill -9, as when memory runs out. The state of its sessions is in the sidecar: they go on elsewhere.",
    )
    victim = client.call("session.get", {"session": NAMES[0]}).result["worker"]
    pids = {w["worker"]: w["pid"] for w in client.call("sidecar.workers").result["workers"]}
    moved = [name for name in NAMES if client.call("session.get", {"session": name}).result["worker"] == victim]
    os.kill(pids[victim], signal.SIGKILL)
    show("killed", f"{victim} (pid {pids[victim]}), with the sessions {', '.join(moved)}")
    for name in moved:
        listed = client.call("list_programs", session=name).result["programs"]
        notes = client.call("remember", {"note": "Still here."}, session=name)
        kept = [p["program"] for p in listed if p["scope"] == "session"]
        show(f"session {name}", f"now on {notes.meta.get('worker')}, programs {kept}, {notes.result} notes")
        if kept != ["facts"] or notes.result != 2:
            raise SystemExit(f"demo: session {name} lost something")
        execute(client, name, "facts", {"text": own or text("curie")})
    workers(client)


def the_application(client: Client, own: str | None) -> None:
    section(
        "5. The application's own",
        "examples/demo/app.py registers a dspy.Module of its own for everybody, and plain Python functions as methods.",
    )
    info = client.call("get_program_info", {"program": "digest"}).result
    show("program digest", f"{info['signature']} ({info['module']}, scope {info['scope']})")
    execute(client, None, "digest", {"text": own or text("curie")})
    show("count_words", brief(client.call("count_words", {"text": own or text("story")}).result))
    show("sentences", "")
    for sentence in client.stream("sentences", {"text": own or text("story")}):
        print(f"      · {sentence}")


def a_stream(client: Client, own: str | None) -> None:
    section("6. A streamed answer", "The text comes as the model writes it; the response brings the typed outputs.")
    client.call("create_program", {"id": "explain", "signature": EXPLAIN}, session="tour")
    begun, first, pieces = time.monotonic(), 0.0, 0
    print("      ", end="", flush=True)
    params = {"program": "explain", "inputs": {"text": own or text("story")}}
    stream = client.stream("execute_program", params, session="tour", timeout=_PATIENCE)
    for item in stream:
        if item["type"] == "delta":
            first, pieces = first or time.monotonic() - begun, pieces + 1
            print(item["text"].replace("\n", "\n      "), end="", flush=True)
    print()
    show("timing", f"first piece after {first:.2f} s, {pieces} pieces in {time.monotonic() - begun:.2f} s")
    show("outputs", brief(stream.reply.result))


def end(client: Client) -> None:
    section("7. The end", "Sessions are ended, and the sidecar says what it did.")
    for name in ("tour", *NAMES):
        client.call("session.end", {"session": name})
    show("statistics", brief(client.call("sidecar.stats").result))


def check(seconds: float, left: list[int], before: dict[Path, tuple[int, int]]) -> int:
    after = machine.files()
    changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    show("stopped", f"in {seconds:.1f} s")
    show("processes left", ", ".join(map(str, left)) or "none")
    show("files written outside build/", ", ".join(changed) or "none")
    print()
    return 1 if left or changed else 0


def execute(client: Client, session: str | None, program: str, inputs: Mapping[str, Any]) -> None:
    """Execute a program and show all of it."""
    params = {"program": program, "inputs": dict(inputs)}
    begun = time.monotonic()
    reply = client.call("execute_program", params, session=session, timeout=_PATIENCE)
    milliseconds = (time.monotonic() - begun) * 1000
    meta, usage = reply.meta, reply.meta.get("usage") or {}
    print(f"\n  execute {program}" + (f" in session {session}" if session else ""))
    for name, value in inputs.items():
        show(name, value, "→")
    for name, value in reply.result.items():
        show(name, f"{value!r}  ({type(value).__name__})", "←")
    took = (
        f"{milliseconds:.0f} ms (waited {meta.get('queue_us', 0) / 1000:.1f}, ran {meta.get('run_us', 0) / 1000:.0f})"
    )
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    show("on", f"{meta.get('worker')}, {took}, {usage.get('lm_calls', 0)} LM calls, {tokens}")


def workers(client: Client) -> None:
    print()
    for worker in client.call("sidecar.workers").result["workers"]:
        told = f"{worker['state']}, {worker['sessions']} sessions, {worker['calls']} calls"
        show(worker["worker"], f"pid {worker['pid']}, {told}")


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
    sys.exit(main())
