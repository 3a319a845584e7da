"""Code that an LM wrote, run in the real sandbox: what it may do, what ends it, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from dspex.errors import Cancelled, ProgramError
from dspex_worker import App, sandbox
from support.driver import Driver, driving
from support.openai_server import OpenAIServer, Reply, json_answer

Scenario = Callable[[Driver, OpenAIServer], Awaitable[None]]


def run(scenario: Scenario, app: App | None = None, **settings: Any) -> None:
    async def go() -> None:
        with OpenAIServer() as server:
            models = {"main": {"model": "openai/m", "api_key": "k", "api_base": server.base, "adapter": "json"}}
            given = {"program_of_thought": True, **settings}
            async with driving(app or App(), models, settings=given) as driver:
                await driver.call("create_program", "s", id="p", signature="q -> a", module="program_of_thought")
                await scenario(driver, server)
                assert children() == set()

    asyncio.run(go())


def children() -> set[int]:
    """Processes of this one: by the kernel's account, of all its threads."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def code(text: str) -> Reply:
    return Reply(json_answer(reasoning="so", generated_code=f"```python\n{text}\n```"))


ANSWER = Reply(json_answer(reasoning="it says so", a="done"))


def test_code_runs_and_its_output_is_what_the_lm_answers_of() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script.extend([code("import math\nSUBMIT({'a': math.comb(30, 15)})"), ANSWER])
        got = await driver.call("execute_program", "s", program="p", inputs={"q": "30 over 15?"})
        assert got == {"reasoning": "it says so", "a": "done"}
        assert "155117520" in server.requests[-1].prompt
        assert len(driver.unsafe_calls) == 1  # it is not run again by itself

    run(scenario)


def test_code_that_fails_is_told_to_the_lm_which_may_mend_it() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script.extend([code("x = 1 / 0"), code("def f("), code("print(7)"), ANSWER])
        assert (await driver.call("execute_program", "s", program="p", inputs={"q": "?"}))["a"] == "done"
        assert "ZeroDivisionError" in server.requests[1].prompt
        assert "Invalid Python syntax" in server.requests[2].prompt
        # No more often than the program may.
        server.script.extend(code(f"int('{number}x')") for number in range(3))
        with pytest.raises(ProgramError, match="2x"):
            await driver.call("execute_program", "s", program="p", inputs={"q": "?"})

    run(scenario)


# JavaScript is what Pyodide leaves to code; Deno is what refuses it.
TRIED = {
    "a file": "open('/etc/passwd').read()",
    "a socket": "import socket; socket.create_connection(('127.0.0.1', PORT), 5)",
    "urllib": "import urllib.request as u; u.urlopen('http://127.0.0.1:PORT/')",
    "fetch": "await js.fetch('http://127.0.0.1:PORT/')",
    "a file by Deno": "js.Deno.readTextFileSync('/etc/passwd')",
    "a file by Node's modules": "js.require('fs').readFileSync('/etc/passwd', 'utf8')",
    "its own files": "js.Deno.readTextFileSync('FOLDER/imports.json')",
    "writing": "js.Deno.writeTextFileSync('WRITTEN', 'x')",
    "a process": "js.Deno.Command.new('id').outputSync()",
    "a module from elsewhere": "await js.eval(\"import('http://127.0.0.1:PORT/m.js')\")",
    "a package": "await js.eval(\"import('npm:left-pad')\")",
    "the environment": "js.Deno.env.toObject()",
    "a signal": "js.Deno.kill(js.process.ppid, 'SIGCONT')",
}
TRY = """
try:
    {tried}
except BaseException as error:
    print("refused {name}")
else:
    print("THROUGH", {name!r})
"""


def test_code_has_no_files_no_network_and_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "not to be seen")

    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        text = "import js, os" + "".join(TRY.format(name=name, tried=tried) for name, tried in TRIED.items())
        for name, value in {"PORT": server.port, "FOLDER": sandbox.folder(), "WRITTEN": tmp_path / "w"}.items():
            text = text.replace(name, str(value))
        # Files of its own are in its memory alone, and the environment is not the worker's.
        text += "open('/tmp/x', 'w').write('kept')\nprint(open('/tmp/x').read(), os.environ)"
        server.script.extend([code(text), ANSWER])
        await driver.call("execute_program", "s", program="p", inputs={"q": "?"})
        assert [seen.path for seen in server.requests] == ["/v1/chat/completions"] * 2
        said = server.requests[1].prompt
        told = [name for name in TRIED if f"refused {name}" not in said]
        assert told == []
        assert "THROUGH '" not in said
        assert "kept environ" in said
        assert "not to be seen" not in said

    run(scenario)
    assert not list(tmp_path.iterdir())


def test_code_that_takes_too_much_is_ended_and_the_lm_told() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        server.script.extend([code("while True: pass"), code("print('x' * 3_000_000)"), code("print(7)"), ANSWER])
        assert (await driver.call("execute_program", "s", program="p", inputs={"q": "?"}))["a"] == "done"
        assert "ran for longer than 1 seconds" in server.requests[1].prompt
        assert "answered more than 1048576 characters" in server.requests[2].prompt
        # Memory of Python's, and of JavaScript's buffers, which V8 does not count as its own.
        big = "import js\nheld = [js.Uint8Array.new(64 << 20).fill(1) for _ in range(40)]\nprint(len(held))"
        server.script.extend([code("x = bytearray(200 << 20)\nprint(1)"), code(big), code("print(7)"), ANSWER])
        assert (await driver.call("execute_program", "s", program="p", inputs={"q": "?"}))["a"] == "done"
        assert "MemoryError" in server.requests[5].prompt
        assert "the code " in server.requests[6].prompt or "RangeError" in server.requests[6].prompt

    run(scenario, code_timeout_ms=1000, code_memory=128 << 20)


def test_code_ends_with_its_call() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        def looping() -> bool:
            # Its start takes half a second.
            return any(sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15])) > 200 for pid in children())

        server.script.append(code("while True: pass"))
        call, answer = driver.begin("execute_program", "s", program="p", inputs={"q": "?"})
        while not looping():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)
        driver.cancel(call)
        with pytest.raises(Cancelled):
            await answer
        assert children() == set()

    run(scenario)


def test_more_runs_than_there_may_be_at_once_wait() -> None:
    async def scenario(driver: Driver, server: OpenAIServer) -> None:
        def answer(seen: Any) -> str:
            if "code_output" in seen.prompt:
                return json_answer(reasoning="r", a="done")
            return json_answer(reasoning="r", generated_code="```python\nprint(6 * 7)\n```")

        server.answer = answer
        calls = [driver.begin("execute_program", "s", program="p", inputs={"q": str(n)})[1] for n in range(6)]
        got = await asyncio.gather(*calls)
        assert [one["a"] for one in got] == ["done"] * 6

    run(scenario)


def test_a_sandbox_that_is_not_there_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start() -> None:
        async with driving(App(), {}, settings={"program_of_thought": True}):
            pass

    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sandbox.SandboxMissing, match="Deno is not there: pip install"):
        asyncio.run(start())
    (tmp_path / "deno").write_text("")
    (tmp_path / "deno").chmod(0o755)
    with pytest.raises(sandbox.SandboxMissing, match=r"python -m dspex_worker\.sandbox"):
        asyncio.run(start())
