"""More than one may have: connections, calls, one client's share."""

from __future__ import annotations

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


def closed_loop(path: str, clients: int, seconds: float) -> float:
    """Calls a second when each of so many clients waits for its answer before it calls again."""
    end = time.monotonic() + seconds

    def work(_: int) -> int:
        done = 0
        with Client(path, timeout=20) as client:
            while time.monotonic() < end:
                client.call("sleep", {"seconds": SECONDS})
                done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(work, range(clients))) / seconds


def test_ten_times_the_capacity() -> None:
    """What is too much is refused at once, with a time; what is useful goes on at 90 % of the peak or more."""
    with Server("sidecar", _BUSY) as server:
        peak = closed_loop(server.path, SLOTS * 2, 2.0)
        connection = server.raw()
        answered: Counter[str] = Counter()
        slowest = 0.0
        sent_at: dict[int, float] = {}
        done = threading.Event()

        def read() -> None:
            nonlocal slowest
            while not (done.is_set() and len(sent_at) == answered.total()):
                message = connection.receive()
                assert isinstance(message, wire.Response)
                if message.error is None:
                    answered["ok"] += 1
                    continue
                answered[message.error["code"]] += 1
                assert message.error["retryable"]
                assert message.error["details"]["retry_after_ms"] > 0
                slowest = max(slowest, time.monotonic() - sent_at[message.id])

        reader = threading.Thread(target=read)
        reader.start()
        began, id = time.monotonic(), 100
        while (elapsed := time.monotonic() - began) < 3.0:
            frames = []
            while id - 100 < elapsed * peak * 10:
                id += 1
                sent_at[id] = time.monotonic()
                frames.append(wire.encode_request(id, "sleep", None, {"seconds": SECONDS}))
            connection.send(*frames)
            time.sleep(0.005)
        at_the_end = answered["ok"]
        last = wire.encode_request(id + 1, "echo", None, {"value": 1})
        sent_at[id + 1] = time.monotonic()
        done.set()
        connection.send(last)
        reader.join(machine.WAIT)
        assert not reader.is_alive()
        assert set(answered) == {"ok", "queue_full"}
        assert answered["queue_full"] > answered["ok"] * 5
        assert at_the_end / 3.0 >= 0.9 * peak, (at_the_end / 3.0, peak)
        assert slowest < 1.0


def test_one_that_wants_all_among_nine_that_do_not() -> None:
    """Nine clients, one call each at a time; the tenth asks for 30 at a time. Turns are taken by connection."""
    with Server("sidecar", _BUSY) as server:
        greedy = server.raw()
        stop = threading.Event()

        def want_all() -> None:
            id = 100
            for _ in range(30):
                id += 1
                greedy.request(id, "sleep", seconds=SECONDS)
            while not stop.is_set():
                assert isinstance(greedy.receive(), wire.Response)
                id += 1
                greedy.request(id, "sleep", seconds=SECONDS)

        def modest(number: int) -> list[float]:
            took = []
            with Client(server.path, timeout=20) as client:
                for _ in range(25):
                    began = time.monotonic()
                    client.call("sleep", {"seconds": SECONDS})
                    took.append(time.monotonic() - began)
            return took

        thread = threading.Thread(target=want_all)
        thread.start()
        try:
            until(lambda: server.client().call("sidecar.stats")["queued"] > 20, "the greedy one waits")
            with ThreadPoolExecutor(9) as pool:
                took = sorted(one for times in pool.map(modest, range(9)) for one in times)
        finally:
            stop.set()
            thread.join()
        # Ten take turns on four slots: each waits for at most one call of each other, and then runs its own.
        turn = math.ceil(10 / SLOTS) * SECONDS + SECONDS
        assert statistics.median(took) < turn, took
        assert took[int(len(took) * 0.95)] < 2 * turn, took


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
    with Server("sidecar", _BUSY) as server:
        greedy, modest = server.raw(), server.client()
        ids = range(100, 100 + SLOTS + 40)
        for id in ids:
            greedy.request(id, "sleep", seconds=0.3)
        until(lambda: modest.call("sidecar.stats")["queued"] == 40, "the queue is full")
        assert modest.call("sidecar.health")["status"] == "degraded"
        assert modest.call("sleep", {"seconds": 0}) > 0  # it gets its turn, and one of the greedy's is refused
        errors = [response.error for response in map(greedy.response, ids) if response.error is not None]
        assert [error["code"] for error in errors] == ["queue_full"]
