"""Node's client, with the surface of Python's for threads: each of its calls is made by Node's client in a process of
Node's (clients/node/tests/support/driver.ts), and what that gives back is what the test sees.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from dspex import CancelToken, Client, Outputs, Reply, wire
from dspex._sync.runtime import invoke
from dspex.errors import error_from_wire
from dspex.offers import offered_error
from e2e.support.configuration import ROOT

_OUT = ROOT / "build" / "node-driver"
_RENAMED = {
    "traceparent": "traceparent",
    "app": "app",
    "pool": "pool",
    "retry": "retry",
    "credit": "credit",
    "idempotent": "idempotent",
    "idempotency_key": "idempotencyKey",
    "token": "token",
    "name": "name",
    "max_frame": "maxFrame",
    "id": "id",
    "state": "state",
    "labels": "labels",
}
_SECONDS = {
    "timeout": "timeoutMs",
    "wait": "waitMs",
    "reconnect": "reconnectMs",
    "ttl": "ttlMs",
    "max_age": "maxAgeMs",
}


class Driver:
    """The process, and the client that steers it."""

    def __init__(self) -> None:
        node = ROOT / "clients" / "node"
        build: list[str | Path] = [
            node / "node_modules" / ".bin" / "tsc",
            "-p",
            "tsconfig.tests.json",
            "--outDir",
            _OUT,
        ]
        subprocess.run(build, cwd=node, check=True)
        script = _OUT / "tests" / "support" / "driver.js"
        self.process = subprocess.Popen(
            ["node", "--enable-source-maps", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        path = self.process.stdout.readline().strip()
        self.steering = Client(path)
        self.offered: dict[int, Callable[..., Any]] = {}
        self.numbers = itertools.count(1)  # of functions that are offered, and of calls that can be cancelled
        self._asked: dict[int, Asked] = {}
        self._listener = threading.Thread(target=self._listen, name="node-driver", daemon=True)
        self._listener.start()

    def call(self, method: str, **params: Any) -> Any:
        return self.steering.call(method, params)

    def invoke(
        self,
        via: Mapping[str, Any],
        name: str,
        *args: Any,
        options: Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
    ) -> Any:
        """Call a method of something in Node. `options`: its last argument, as Node's client takes it."""
        params: dict[str, Any] = {"via": via, "name": name, "args": [pack(one) for one in args]}
        if options is not None:
            params["options"] = pack(options)
        if cancel is None:
            return outcome(self.call("invoke", **params))
        number = next(self.numbers)
        with cancel.attached(lambda: self.call("abort", abort=number)):
            return outcome(self.call("invoke", **params, abort=number))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(20) == 0
        self._listener.join(20)
        self.steering.close()

    def _listen(self) -> None:
        """Functions that tests offer run on threads of this process, as those of Python's client do."""
        try:
            for news in self.steering.stream("news"):
                if (ended := news.get("ended")) is not None:
                    if (asked := self._asked.get(ended)) is not None:
                        asked.token.cancel()
                    continue
                asked = self._asked[news["ask"]] = Asked(self, news)
                function = self.offered[news["offered"]]
                work = threading.Thread(target=self._answer, args=(news, function, asked), daemon=True)
                work.start()
        except ConnectionError:  # the process has ended
            pass

    def _answer(self, news: Mapping[str, Any], function: Callable[..., Any], asked: Asked) -> None:
        answer: dict[str, Any]
        try:
            answer = {"value": pack(invoke(function, unpack(news["params"]), asked, asked.token))}
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the answer
            answer = {"error": offered_error(error).to_wire()}
        del self._asked[news["ask"]]
        self.call("answer", ask=news["ask"], **answer)


@cache
def driver() -> Driver:
    """One for all tests; whoever asks first starts it. conftest.py ends it."""
    return Driver()


def pack(value: Any) -> bytes:
    return wire.encode_response(1, None, value)[4:]


def unpack(body: bytes) -> Any:
    message = wire.decode(body)
    assert isinstance(message, wire.Response)
    return message.result


class Handle(int):
    """What cannot be handed over, by its number in the driver."""


def outcome(told: Mapping[str, Any]) -> Any:
    """What a call of Node's client gave, raised where that is an error."""
    if "value" in told:
        return unpack(told["value"])
    if "handle" in told:
        return Handle(told["handle"])
    if "error" in told:
        error = error_from_wire(told["error"])
        error.meta = dict(told["meta"])
        raise error
    raise ValueError(told["misuse"])


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of Node's client that Python's go by."""
    told = {_RENAMED[name]: value for name, value in given.items() if name in _RENAMED and value is not None}
    told |= {_SECONDS[name]: value * 1000 for name, value in given.items() if name in _SECONDS and value is not None}
    if "session" in given and given["session"] is not None:
        token = given.get("session_token")
        told["session"] = given["session"] if token is None else {"id": given["session"], "token": token}
    unknown = given.keys() - _RENAMED.keys() - _SECONDS.keys() - {"session", "session_token"}
    assert not unknown, f"no option of Node's client is known for {unknown}"
    return told


class _Calls:
    """What clients and sessions have in common."""

    def __init__(self, driver: Driver, via: dict[str, Any]) -> None:
        self._driver = driver
        self._via = via

    def call(self, method: str, params: Any = None, *, cancel: CancelToken | None = None, **given: Any) -> Any:
        return self._driver.invoke(self._via, "call", method, params, cancel=cancel, options=options(given))

    def request(self, method: str, params: Any = None, *, cancel: CancelToken | None = None, **given: Any) -> Reply:
        reply = self._driver.invoke(self._via, "request", method, params, cancel=cancel, options=options(given))
        return Reply(reply["result"], reply["meta"])

    def stream(self, method: str, params: Any = None, **given: Any) -> NodeStream:
        made = self._driver.invoke(self._via, "stream", method, params, options=options(given))
        return NodeStream(self._driver, made)

    def program(self, id: str) -> NodeProgram:
        return NodeProgram(self._driver, {**self._via, "program": id}, id)

    def offer(self, name: str, function: Callable[..., Any]) -> Callable[[], None]:
        number = next(self._driver.numbers)
        self._driver.offered[number] = function
        handle = self._driver.call("offer", via=self._via, name=name, offered=number)
        return lambda: self._driver.call("take_back", handle=handle)


class NodeCaller(_Calls):
    """What `Asked.client` is."""

    def session(self, id: str, *, token: str | None = None) -> NodeSession:
        return NodeSession(self._driver, self._via, id, token)

    def create_session(self, id: str | None = None, *, token: bool = False, **given: Any) -> NodeSession:
        wanted = options({"id": id, "token": token or None, **given})
        made = self._driver.invoke(self._via, "createSession", options=wanted)
        return self.session(made["id"], token=made.get("token"))


class NodeClient(NodeCaller):
    """A client."""

    def __init__(self, path: str, handle: int | None = None, **given: Any) -> None:
        self.path = path
        made = driver()
        if handle is None:
            handle = made.call("client", options={"socket": path, **options(given)})
        super().__init__(made, {"handle": handle})

    @property
    def server(self) -> dict[str, Any]:
        told: dict[str, Any] = outcome(self._driver.call("property", handle=self._via["handle"], name="server"))
        return told

    def connect(self) -> Self:
        self._driver.invoke(self._via, "connect")
        return self

    def close(self) -> None:
        self._driver.invoke(self._via, "close")

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()


class Asked:
    """What a function that is offered is told."""

    def __init__(self, driver: Driver, news: Mapping[str, Any]) -> None:
        self.method = news["method"]
        self.session = news.get("session")
        self.client = NodeCaller(driver, {"handle": news["ask"]})
        self.token = CancelToken()
        self._driver = driver
        self._signal = news["signal"]

    @property
    def cancelled(self) -> bool:
        """As the signal has it: the news that it was aborted may come later than what else came of that."""
        aborted: bool = outcome(self._driver.call("property", handle=self._signal, name="aborted"))
        return aborted


class NodeSession(_Calls):
    """A session."""

    def __init__(self, driver: Driver, via: Mapping[str, Any], id: str, token: str | None) -> None:
        self.id = id
        self.token = token
        super().__init__(driver, {**via, "session": id, **({} if token is None else {"token": token})})

    def info(self) -> Any:
        return self._driver.invoke(self._via, "info")

    def state(self) -> Any:
        return self._driver.invoke(self._via, "state")

    def update(self, set: Mapping[str, Any] | None = None, *, delete: Iterable[str] = ()) -> None:
        changes = {"set": set or None, "delete": list(delete) or None}
        self._driver.invoke(self._via, "update", {key: value for key, value in changes.items() if value is not None})

    def reset(self) -> None:
        self._driver.invoke(self._via, "reset")

    def configure_lm(self, model: str | None = None, **more: Any) -> Any:
        given = {"model": model, **more}
        choice = {key: value for key, value in given.items() if value is not None}
        return self._driver.invoke(self._via, "configureLM", choice)

    def create_program(self, id: str | None, signature: Any, **more: Any) -> NodeProgram:
        given = {key: value for key, value in more.items() if value is not None}
        made = self._driver.invoke(self._via, "createProgram", id, signature, given)
        return self.program(made["id"])

    def programs(self) -> Any:
        return self._driver.invoke(self._via, "programs")

    def end(self) -> None:
        self._driver.invoke(self._via, "end")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class NodeProgram:
    """A program, which is a function in Node."""

    def __init__(self, driver: Driver, via: dict[str, Any], id: str) -> None:
        self.id = id
        self._driver = driver
        self._via = via

    def __call__(self, **inputs: Any) -> Outputs:
        return self.run(inputs)

    def run(self, inputs: Any, *, cancel: CancelToken | None = None, **given: Any) -> Outputs:
        reply = self._driver.invoke(self._via, "request", inputs, cancel=cancel, options=options(given))
        return Outputs(reply["result"], reply["meta"])

    def stream(self, /, **inputs: Any) -> NodeStream:
        return self.run_stream(inputs)

    def run_stream(self, inputs: Any, **given: Any) -> NodeStream:
        made = self._driver.invoke(self._via, "stream", inputs, options=options(given))
        return NodeStream(self._driver, made, Outputs)

    def info(self) -> Any:
        return self._driver.invoke(self._via, "info")

    def delete(self) -> None:
        self._driver.invoke(self._via, "delete")


class NodeStream:
    """A stream, whose items are taken one by one."""

    def __init__(self, driver: Driver, handle: int, made: Callable[[Any, Any], Any] = lambda result, _: result) -> None:
        self._driver = driver
        self._handle = int(handle)
        self._made = made

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        step = self._driver.invoke({"handle": self._handle}, "next")
        if step["done"]:
            raise StopIteration
        return step["value"]

    @property
    def result(self) -> Any:
        return self._made(self._property("result"), self.meta)

    @property
    def meta(self) -> Any:
        return self._property("meta")

    def close(self) -> None:
        self._driver.invoke({"handle": self._handle}, "close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _property(self, name: str) -> Any:
        return outcome(self._driver.call("property", handle=self._handle, name=name))


class NodeAdapter:
    """`get_adapter`'s, with its methods by their names."""

    def __init__(self, kind: str, **given: Any) -> None:
        self._driver = driver()
        if "config" in given:  # it starts a bridge
            given["python"] = sys.executable
        environment = {name: os.environ[name] for name in ("LM_KEY", "PYTHONPATH") if name in os.environ}
        made = outcome(self._driver.call("adapter", kind=kind, options=given, environment=environment))
        self._via = {"handle": made["adapter"]}
        self.client = NodeClient(given.get("socket", ""), made["client"])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, session_id: str | None = None) -> Any:
            options = None if session_id is None else {"session_id": session_id}
            return self._driver.invoke(self._via, name, *args, options=options)

        return call
