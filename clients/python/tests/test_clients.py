"""Both clients against a scripted server: what they do with answers, good and bad."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import uvloop
from dspex import CancelToken, Outputs, errors, wire
from scripted import Peer, client, drive, serving

pytestmark = pytest.mark.parametrize("kind", ["threads", "asyncio"])


def echo(peer: Peer) -> None:
    peer.greet()
    peer.echo()


def test_call(kind: str) -> None:
    def script(peer: Peer) -> None:
        hello = peer.greet()
        assert hello.params["protocols"] == [1]
        assert hello.params["client"]["name"] == "tester"
        request = peer.read()
        assert 0 < request.meta.pop("timeout_ms") <= 1500
        assert request.meta == {"session": "s", "retry": "safe", "app": {"a": [1]}}
        assert (request.method, request.params) == ("m", {"x": 1})
        peer.answer(request, {"y": None}, worker="w1", run_us=5)

    async def scenario(path: str) -> None:
        async with client(kind, path, name="tester") as c:
            reply = await c.request("m", {"x": 1}, session="s", timeout=1.5, retry="safe", app={"a": (1,)})
            assert reply == ({"y": None}, {"worker": "w1", "run_us": 5})
            assert c.server["server"]["name"] == "scripted"

    with serving(script) as path:
        drive(scenario(path))


def test_on_uvloop(kind: str) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await asyncio.gather(*[c.call("m", {"n": n}) for n in range(100)]) == [{"n": n} for n in range(100)]
            with pytest.raises(errors.DeadlineExceeded):
                await c.call("hang", timeout=0.05)

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.read()) is not None:
            if isinstance(message, wire.Request) and message.method != "hang":
                peer.answer(message, message.params)

    with serving(script) as path:
        uvloop.run(scenario(path))


def test_errors_are_typed(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.fail(peer.read(), "session_not_found")
        peer.fail(peer.read(), "unheard_of", retryable=True, details={"a": 1})

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            with pytest.raises(errors.SessionNotFound, match="as scripted") as not_found:
                await c.call("m")
            assert not_found.value.retryable is False
            with pytest.raises(errors.DspexError) as unknown:
                await c.call("m")
            assert (unknown.value.code, unknown.value.retryable, unknown.value.details) == (
                "unheard_of",
                True,
                {"a": 1},
            )

    with serving(script) as path:
        drive(scenario(path))


def test_an_answer_that_cannot_be_sent_is_not_sent(kind: str) -> None:
    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            with pytest.raises(errors.NotSerializable) as failure:
                await c.call("m", {"a": [{1}]})
            assert failure.value.details == {"path": "params.a[0]"}
            with pytest.raises(errors.FrameTooLarge) as too_large:
                await c.call("m", {"a": bytes(70_000)})
            assert too_large.value.details["limit"] == 65536
            assert await c.call("m", {"a": 1}) == {"a": 1}

    def script(peer: Peer) -> None:
        peer.greet(max_frame=65536)
        peer.echo()

    with serving(script) as path:
        drive(scenario(path))


def test_a_late_answer_reaches_nobody(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        first = peer.read()
        assert peer.read() == wire.Cancel(first.id, None)
        second = peer.read()
        assert second.id != first.id
        peer.answer(first, "late")
        peer.answer(second, "second")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            with pytest.raises(errors.DeadlineExceeded) as exceeded:
                await c.call("slow", timeout=0.05)
            assert exceeded.value.details == {"ended_by": "client"}
            assert isinstance(exceeded.value, TimeoutError)
            assert await c.call("m") == "second"

    with serving(script) as path:
        drive(scenario(path))


def test_an_answer_over_the_limit_settles_its_call_only(kind: str) -> None:
    def script(peer: Peer) -> None:
        assert peer.greet().params["max_frame"] == 65536
        peer.answer(peer.read(), bytes(70_000))
        request = peer.read()
        peer.send(wire.encode_item(request.id, bytes(70_000)))
        assert isinstance(peer.read(), wire.Cancel)
        peer.fail(request, "cancelled")
        peer.send(wire.encode_request(77, "ask", None, {"a": bytes(70_000)}))
        late = [peer.read(), peer.read()]  # that answer, and the next call
        assert [m.error["code"] for m in late if isinstance(m, wire.Response) and m.error] == ["frame_too_large"]
        peer.answer(next(m for m in late if isinstance(m, wire.Request)), {"n": 1})

    async def scenario(path: str) -> None:
        async with client(kind, path, max_frame=65536) as c:
            with pytest.raises(errors.FrameTooLarge) as too_large:
                await c.call("m")
            assert too_large.value.details["limit"] == 65536
            assert too_large.value.details["length"] > 70_000
            with pytest.raises(errors.FrameTooLarge):
                await anext(c.stream("s"))
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


def test_large_frames_both_ways_at_once(kind: str) -> None:
    big = bytes(range(256)) * (4 << 12)  # 4 MiB

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.answer(request, big)  # before the second, as large, has been read: it is on its way
        peer.answer(peer.read(), big)

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            results = await asyncio.gather(c.call("m", {"a": big}), c.call("m", {"a": big}))
            assert list(results) == [big, big]

    with serving(script) as path:
        drive(scenario(path))


def test_goaway(kind: str) -> None:
    second_is_there = threading.Event()
    old_is_read = threading.Event()

    def first(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        old_is_read.set()
        other = peer.read()
        peer.send(wire.encode_notification("goaway", {"reason": "test", "drain_ms": 1000}))
        peer.answer(other, "now it has heard")
        assert second_is_there.wait(10)
        peer.answer(request, "old")
        assert peer.read() is None  # closed by the client, which needs it no more

    def second(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.read(), "new")
        second_is_there.set()
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            old = asyncio.create_task(c.call("old"))
            await asyncio.to_thread(old_is_read.wait)
            assert await c.call("m") == "now it has heard"
            assert await c.call("new") == "new"
            assert await old == "old"
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(first, second) as path:
        drive(scenario(path))


def test_a_call_that_a_draining_sidecar_refused_goes_over_a_new_connection(kind: str) -> None:
    def first(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.send(wire.encode_notification("goaway", {"reason": "test", "drain_ms": 1000}))
        peer.fail(request, "draining", retryable=True)

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(first, echo) as path:
        drive(scenario(path))


def test_an_idempotent_call_is_asked_for_again_with_its_key(kind: str) -> None:
    keys: list[str] = []

    def lose(peer: Peer) -> None:
        peer.greet()
        keys.append(peer.read().meta["idempotency_key"])

    def answer(peer: Peer) -> None:
        peer.greet()
        while (request := peer.read()) is not None:
            keys.append(request.meta["idempotency_key"])
            peer.answer(request, request.params)

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call("m", {"n": 1}, idempotent=True) == {"n": 1}
            assert await c.call("m", {"n": 2}, idempotent=True) == {"n": 2}
            session = c.session("s")
            assert (await session.request("m", {"n": 3}, idempotent=True, idempotency_key="mine")).result == {"n": 3}
            assert await session.program("p").run({"n": 4}, idempotency_key="mine too")
            for options in ({"idempotent": True}, {"idempotency_key": "k"}):
                with pytest.raises(ValueError, match="a stream has no idempotency key"):
                    c.stream("m", **options)

    with serving(lose, lose, answer) as path:
        drive(scenario(path))
    first, second, third, other, *mine = keys
    assert first == second == third != other
    assert len(first) == 32
    assert mine == ["mine", "mine too"]


def test_how_often_a_lost_call_is_asked_for(kind: str) -> None:
    """Thrice where it is idempotent, and once where it has a key only: then the caller knows what to do."""
    seen: list[Any] = []

    def lose(peer: Peer) -> None:
        peer.greet()
        seen.append(peer.read().meta.get("idempotency_key"))

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            for options in ({"idempotent": True}, {"idempotency_key": "k"}, {}):
                with pytest.raises(errors.ConnectionLost):
                    await c.call("m", **options)

    with serving(*[lose] * 5) as path:
        drive(scenario(path))
    assert (len(set(seen[:3])), seen[3:]) == (1, ["k", None])


def test_stream_takes_credit_and_gives_it(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        credit = request.meta["stream"]
        assert credit == 4
        sent = 0
        while sent < 20:
            if not credit:
                grant = peer.read()
                assert grant.id == request.id
                credit += grant.n
                assert credit <= 4
                continue
            peer.send(wire.encode_item(request.id, sent))
            sent, credit = sent + 1, credit - 1
        peer.answer(request, "end", worker="w")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            stream = c.stream("s", {"a": 1}, credit=4)
            with pytest.raises(RuntimeError, match="not ended"):
                _ = stream.result
            assert [item async for item in stream] == list(range(20))
            assert (stream.result, stream.meta) == ("end", {"worker": "w"})

    with serving(script) as path:
        drive(scenario(path))


def test_leaving_a_stream_cancels_it(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.send(wire.encode_item(request.id, 0))
        assert peer.read() == wire.Cancel(request.id, None)
        peer.send(wire.encode_item(request.id, 1))  # was on its way
        peer.fail(request, "cancelled")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            async with c.stream("s") as stream:
                assert await anext(stream) == 0
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            with pytest.raises(errors.Cancelled):
                _ = stream.result
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


def test_a_stream_that_fails(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.send(wire.encode_item(request.id, 0))
        peer.fail(request, "program_error", details={"type": "ValueError"})
        request = peer.read()
        peer.send(*[wire.encode_item(request.id, n) for n in range(3)])  # one more than was asked for
        assert isinstance(peer.read(), wire.Cancel)
        peer.fail(request, "cancelled")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            stream = c.stream("s")
            assert await anext(stream) == 0
            with pytest.raises(errors.ProgramError):
                await anext(stream)
            greedy = c.stream("s", credit=2)
            with pytest.raises(errors.InvalidFrame, match="credit"):
                await take_all(greedy)
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


async def take_all(stream: Any) -> None:
    async for _ in stream:
        pass


def test_requests_of_the_sidecar_are_answered(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        peer.send(wire.encode_request(5, "ask", {"call": request.id}, {}))
        answer = peer.read()
        assert (answer.id, answer.error["code"]) == (5, "unknown_method")
        peer.answer(request, "done")

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            assert await c.call("m") == "done"

    with serving(script) as path:
        drive(scenario(path))


def test_refused_in_the_handshake(kind: str) -> None:
    def refuse(peer: Peer) -> None:
        peer.fail(peer.read(), "permission_denied")

    def babble(peer: Peer) -> None:
        peer.answer(peer.read(), {"protocol": 2, "max_frame": 65536})

    def leave(peer: Peer) -> None:
        pass

    async def scenario(path: str) -> None:
        c = client(kind, path)
        with pytest.raises(errors.PermissionDenied):
            await c.connect()
        with pytest.raises(errors.InvalidFrame):
            await c.connect()
        with pytest.raises(errors.ConnectionLost):
            await c.connect()
        await c.close()

    with serving(refuse, babble, leave) as path:
        drive(scenario(path))


def test_cancel_token(kind: str) -> None:
    token = CancelToken()

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        token.cancel()
        assert peer.read() == wire.Cancel(request.id, None)
        peer.fail(request, "cancelled")
        peer.echo()

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            with pytest.raises(errors.Cancelled):
                await c.call("m", cancel=token)
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


@pytest.mark.parametrize("made", ["stream", "session", "run_stream"])
def test_cancel_token_of_a_stream(kind: str, made: str) -> None:
    token = CancelToken()

    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        for n in range(3):
            peer.send(wire.encode_item(request.id, n))
        while not isinstance(message := peer.read(), wire.Cancel):
            assert isinstance(message, wire.Credit)
        assert message.id == request.id
        peer.fail(request, "cancelled")
        again = peer.read()
        token.cancel()
        assert peer.read() == wire.Cancel(again.id, None)
        peer.fail(again, "cancelled")
        peer.echo()

    async def scenario(path: str) -> None:
        nonlocal token
        async with client(kind, path) as c:

            def stream() -> Any:
                if made == "run_stream":
                    return c.program("p").run_stream({}, cancel=token)
                return (c.session("s") if made == "session" else c).stream("m", cancel=token)

            first = stream()
            assert await anext(first) == 0
            token.cancel()
            with pytest.raises(errors.Cancelled):
                async for _ in first:  # what had come by then
                    pass
            token = CancelToken()
            with pytest.raises(errors.Cancelled):
                await anext(stream())
            assert await c.call("m", {"n": 1}) == {"n": 1}

    with serving(script) as path:
        drive(scenario(path))


def test_sessions_and_programs(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        request = peer.read()
        assert request.params == {
            "session": "s",
            "state": {"a": 1},
            "ttl_ms": 2500,
            "labels": {"l": "x"},
            "token": True,
        }
        peer.answer(request, {"session": "s", "token": "t"})
        mine = {"session": "s", "session_token": "t"}

        def expect(method: str, params: dict[str, Any], result: Any) -> None:
            request = peer.read()
            assert (request.method, request.meta, request.params) == (method, mine, params)
            peer.answer(request, result, worker="w")

        expect("configure_lm", {"model": "local"}, {"model": "local"})
        expect("create_program", {"id": "qa", "signature": "q -> a", "module": "predict"}, {"program": "qa"})
        expect("execute_program", {"program": "qa", "inputs": {"q": "?", "self": 1}}, {"a": "!"})
        expect("session.update", {"set": {"k": 1}, "delete": ["d"]}, {"session": "s", "version": 2})
        expect("session.get", {}, {"state": {"k": 1}})
        request = peer.read()
        assert request.meta == {**mine, "stream": 64}
        peer.send(wire.encode_item(request.id, {"type": "delta", "field": "a", "text": "!"}))
        peer.answer(request, {"a": "!"})
        expect("session.reset", {}, {"session": "s"})
        expect("session.end", {}, {"session": "s"})

    async def scenario(path: str) -> None:
        async with client(kind, path) as c:
            made = await c.create_session("s", state={"a": 1}, ttl=2.5, labels={"l": "x"}, token=True)
            async with made as session:
                assert await session.configure_lm("local") == {"model": "local"}
                program = await session.create_program("qa", "q -> a", module="predict")
                outputs = await program.run({"q": "?", "self": 1})
                assert type(outputs) is Outputs
                assert (outputs.a, outputs["a"], outputs.meta) == ("!", "!", {"worker": "w"})
                with pytest.raises(AttributeError, match="there are a"):
                    _ = outputs.b
                await session.update({"k": 1}, delete=["d"])
                assert await session.state() == {"k": 1}
                stream = session.program("qa").stream(q="?")
                assert [item["text"] async for item in stream] == ["!"]
                assert stream.result == {"a": "!"}
                await session.reset()

    with serving(script) as path:
        drive(scenario(path))
