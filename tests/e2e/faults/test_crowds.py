"""More than one may have: connections, calls, one client's share."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from dspex import Client, wire
from e2e.faults.conftest import BASE
from e2e.support import machine
from e2e.support.configuration import merged
from e2e.support.machine import until
from e2e.support.other_user import NOBODY, OtherUser, needs_root
from e2e.support.servers import Server
from runtime.harness import Connection

CONNECTIONS = 10_000
DESCRIPTORS = 20_000

_CROWD = """
    hello = wire.encode_request(1, "hello", None, {"protocols": [1], "client": {"name": "idle", "version": "1"}})
    crowd = []
    for _ in range(int(sys.stdin.readline())):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.sendall(hello)
        crowd.append(sock)
    for sock in crowd:
        sock.recv(4096)
    say(len(crowd))
    say([code(Client(path).connect) for _ in range(20)])
    sys.stdin.readline()
    for sock in crowd[::100]:
        sock.sendall(wire.encode_request(2, "echo", None, {"value": 1}))
    say(sum(b"worker" in sock.recv(4096) for sock in crowd[::100]))
    sys.stdin.readline()
    for sock in crowd:
        sock.close()
    say("left")
    sys.stdin.readline()
"""


@needs_root
def test_ten_thousand_idle_connections() -> None:
    """In at most 64 MiB; one more is refused, and an administrator gets in."""
    listen = {"mode": "0666", "allow_uids": [NOBODY], "max_connections": CONNECTIONS}
    limit = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with Server("sidecar", merged(BASE, {"listen": listen}), prefix=limit) as server:
        server.folder.chmod(0o711)
        client = server.client()
        assert client.call("echo", {"value": 1}) == 1
        before, held = machine.memory(server.pid), len(machine.descriptors(server.pid))
        with OtherUser(server.path, _CROWD) as crowd:
            crowd.hear(str(CONNECTIONS - 1))  # this one's is the first
            assert crowd.says() == CONNECTIONS - 1
            assert crowd.says() == ["queue_full"] * 20
            assert client.call("sidecar.stats")["clients"] == CONNECTIONS
            with server.client() as another:
                assert another.call("echo", {"value": 2}) == 2
            until(lambda: machine.memory(server.pid) - before < 64 << 20, "they take 64 MiB at most")
            crowd.hear()
            assert crowd.says() == math.ceil((CONNECTIONS - 1) / 100)
            crowd.hear()
            assert crowd.says() == "left"
            until(lambda: client.call("sidecar.stats")["clients"] == 1, "they have left")
        until(lambda: len(machine.descriptors(server.pid)) <= held, "their descriptors are closed")


SLOTS = 4
SECONDS = 0.02  # of one call
_BUSY = merged(BASE, {"pools": {"default": {"size": 1, "concurrency": SLOTS, "queue_limit": 40}}})


def closed_loop(path: str, seconds: float) -> float:
    """Calls a second when each of twice as many clients as slots waits for its answer before it calls again."""
    end = time.monotonic() + 2.0

    def work(_: int) -> int:
        done = 0
        with Client(path, timeout=20) as client:
            while time.monotonic() < end:
                client.call("sleep", {"seconds": seconds})
                done += 1
        return done

    with ThreadPoolExecutor(SLOTS * 2) as pool:
        return sum(pool.map(work, range(SLOTS * 2))) / 2.0


def open_loop(connection: Connection, rate: float, seconds: float) -> tuple[float, Counter[str], float]:
    """Ask so many times a second, whatever is answered.

    Returns the useful answers a second, the count of each kind of answer, and the longest wait for a refusal.
    """
    answered: Counter[str] = Counter()
    sent: dict[int, float] = {}
    slowest = 0.0

    def read() -> None:
        nonlocal slowest
        while not (done.is_set() and len(sent) == answered.total()):
            message = connection.receive()
            assert isinstance(message, wire.Response)
            if message.error is None:
                answered["ok"] += 1
                continue
            answered[message.error["code"]] += 1
            assert message.error["retryable"]
            assert message.error["details"]["retry_after_ms"] > 0
            slowest = max(slowest, time.monotonic() - sent[message.id])

    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < 3.0:
            frames = []
            while len(sent) < elapsed * rate:
                id = connection.next_id = connection.next_id + 1
                sent[id] = time.monotonic()
                frames.append(wire.encode_request(id, "sleep", None, {"seconds": seconds}))
            connection.send(*frames)
            time.sleep(0.01)
        useful = answered["ok"] / 3.0
        id = connection.next_id = connection.next_id + 1
        sent[id] = time.monotonic()
        done.set()
        connection.send(wire.encode_request(id, "echo", None, {"value": 1}))
        reading.result(machine.WAIT)
    return useful, answered, slowest


def test_ten_times_the_capacity() -> None:
    """What is too much is refused at once, with a time; what is useful goes on at 90 % of the peak or more."""
    seconds, seen = 0.05, []
    with Server("sidecar", _BUSY) as server:
        for _ in range(3):  # what else the machine does may cost one of them
            peak = closed_loop(server.path, seconds)
            useful, answered, slowest = open_loop(server.raw(), peak * 10, seconds)
            assert set(answered) == {"ok", "queue_full"}
            assert answered["queue_full"] > answered["ok"] * 4
            seen.append((useful, peak, slowest))
            if useful >= 0.9 * peak and slowest < 0.5:
                return
    raise AssertionError(f"useful answers a second, the peak, and the longest wait for a refusal: {seen}")


def latencies(path: str) -> list[float]:
    """What nine clients wait that make one call after the other, in order."""

    def modest(_: int) -> list[float]:
        took = []
        with Client(path, timeout=20) as client:
            for _ in range(25):
                began = time.monotonic()
                client.call("sleep", {"seconds": SECONDS})
                took.append(time.monotonic() - began)
        return took

    with ThreadPoolExecutor(9) as pool:
        return sorted(one for times in pool.map(modest, range(9)) for one in times)


def test_one_that_wants_all_among_nine_that_do_not() -> None:
    """Turns are taken by connection: who asks for 30 at a time costs the others one call's time and not thirty's."""
    with Server("sidecar", _BUSY) as server:
        alone = latencies(server.path)
        greedy = server.raw()
        stop = threading.Event()

        def want_all() -> None:
            for id in range(100, 130):
                greedy.request(id, "sleep", seconds=SECONDS)
            for id in itertools.count(130):
                assert isinstance(greedy.receive(), wire.Response)
                if stop.is_set():
                    return
                greedy.request(id, "sleep", seconds=SECONDS)

        thread = threading.Thread(target=want_all)
        thread.start()
        try:
            until(lambda: server.client().call("sidecar.stats")["queued"] > 20, "the greedy one waits")
            beside = latencies(server.path)
        finally:
            stop.set()
            thread.join()
        most = int(len(alone) * 0.95)
        assert statistics.median(beside) < statistics.median(alone) * 1.3 + SECONDS, (alone, beside)
        assert beside[most] < alone[most] * 1.5 + 2 * SECONDS, (alone, beside)
        assert beside[most] < 30 / SLOTS * SECONDS + statistics.median(alone)


def test_one_session_that_wants_all() -> None:
    """The same with sessions of one connection: turns are taken by session."""
    with Server("sidecar", _BUSY) as server:
        client = server.client()
        sessions = [client.create_session() for _ in range(10)]
        greedy = server.raw()
        for id in range(100, 130):
            greedy.request(id, "sleep", {"session": sessions[0].id}, seconds=SECONDS)
        until(lambda: client.call("sidecar.stats")["queued"] > 20, "the greedy one waits")

        def modest(number: int) -> float:
            began = time.monotonic()
            sessions[number].call("sleep", {"seconds": SECONDS})
            return time.monotonic() - began

        with ThreadPoolExecutor(9) as pool:
            took = sorted(pool.map(modest, range(1, 10)))
        assert took[-1] < 30 * SECONDS  # they did not wait for the thirty
        for id in range(100, 130):
            assert greedy.response(id).error is None


def test_the_queue_sheds_who_has_most() -> None:
    with Server("sidecar", merged(_BUSY, {"pools": {"default": {"checkout_timeout": "30s"}}})) as server:
        greedy, modest = server.raw(), server.client()
        ids = range(100, 100 + SLOTS + 40)
        for id in ids:
            greedy.request(id, "sleep", seconds=0.3)
        until(lambda: modest.call("sidecar.stats")["queued"] == 40, "the queue is full")
        assert modest.call("sidecar.health")["status"] == "degraded"
        assert modest.call("sleep", {"seconds": 0}) > 0  # it gets its turn, and one of the greedy's is refused
        errors = [response.error for response in map(greedy.response, ids) if response.error is not None]
        assert [error["code"] for error in errors] == ["queue_full"]
