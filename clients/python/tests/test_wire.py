"""The protocol's implementation, beyond the vectors: any bytes, any portions, any values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from datetime import UTC, datetime
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
import vectors
from dspex import errors, wire
from hypothesis import example, given, settings
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
GOOD = [
    vectors.expand(v["body"])
    for name in ("frames", "values", "content", "envelopes")
    for v in vectors.load(name)
    if isinstance(v["body"], str)
]


@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert wire.decode_value(wire.pack_value(value)) == value
    assert wire.decode(wire.encode_response(1, None, value)[4:]) == wire.Response(1, {}, None, value)
    assert wire.scan(wire.pack_value(value))


@given(st.binary(max_size=200))
@example(b"\x95\x01\x02\xc0\xc0\xd7\xff\x00\x00\x00\x00\x00\x00\x00\x00")
@settings(max_examples=500)
def test_any_bytes_give_a_message_or_a_violation(body: bytes) -> None:
    judge(body)


@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3))
@settings(max_examples=1000)
def test_changed_frames_give_a_message_or_a_violation(body: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(body)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    judge(bytes(changed))


def judge(body: bytes) -> None:
    """The fast way and the exact way agree on the structure, and nothing but violations is raised."""
    try:
        sound = wire.scan(body) and body[0] in (*range(0x90, 0xA0), 0xDC, 0xDD)
    except wire.StructureError:
        sound = False
    try:
        wire.decode(body)
    except wire.StructureError:
        assert not sound
    except wire.Violation:
        assert sound
    else:
        assert sound


# That many values take long to count while memory is traced.
BOMBS = [v for v in vectors.load("structure") if not isinstance(v["body"], str) and v["name"] != "4194305 values"]


@pytest.mark.parametrize("vector", BOMBS, ids=[v["name"] for v in BOMBS])
def test_bombs_cost_no_memory(vector: dict[str, Any]) -> None:
    body = vectors.expand(vector["body"])
    tracemalloc.start()
    try:
        with pytest.raises(wire.StructureError):
            wire.decode(body)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body) + (4 << 20)
    finally:
        tracemalloc.stop()


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 400)), st.integers(100, 300))
def test_portions_do_not_matter(bodies: list[bytes], portions: list[int], limit: int) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    splitter = wire.FrameSplitter(limit)
    events: list[wire.Event] = []
    place = 0
    for portion in [*portions, len(stream)]:
        events += splitter.feed(memoryview(stream)[place : place + portion])
        place += portion
    assert [bytes(e) if isinstance(e, bytes | bytearray) else e for e in events] == [
        body if len(body) <= limit else wire.TooLong(len(body), body[:64]) for body in bodies
    ]
    assert splitter.idle


def test_a_large_body_lands_where_it_stays() -> None:
    body = bytes(range(256)) * 4096
    splitter = wire.FrameSplitter()
    stream = memoryview(len(body).to_bytes(4, "big") + body)
    assert splitter.room() is None
    assert splitter.feed(stream[:100_000]) == []
    place = 100_000
    events: list[wire.Event] = []
    while not events:
        room = splitter.room()
        assert room is not None
        count = min(len(room), 50_000)
        room[:count] = stream[place : place + count]
        place += count
        events = splitter.filled(count)
    assert events == [body]
    assert splitter.room() is None


def test_a_declared_length_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        splitter = wire.FrameSplitter(1 << 30)
        splitter.feed(b"\x3f\xff\xff\xff" + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: list[Any]


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {"m": Colour.RED}


class Prediction:
    def toDict(self) -> dict[str, Any]:  # noqa: N802 - DSPy's name
        return {"answer": 1}


def test_objects_are_packed_as_what_they_hold() -> None:
    value = {
        "point": Point(1, [Model()]),
        "prediction": Prediction(),
        "level": Level.HIGH,
        "ordered": OrderedDict(a=(1, 2)),
    }
    assert wire.decode_value(wire.pack_value(value)) == {
        "point": {"x": 1, "y": [{"m": "red"}]},
        "prediction": {"answer": 1},
        "level": 3,
        "ordered": {"a": [1, 2]},
    }


def endless() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [1, {"b c": {1, 2}}]}, "value.a[1]['b c']", "use a list"),
        ({"a": {1: 2}}, "value.a", "keys are text"),
        ({"a": 2**64}, "value.a", "integer"),
        ([-(2**63) - 1], "value[0]", "integer"),
        (["\ud800"], "value[0]", "surrogate"),
        ({"\ud800": 1}, "value['\\ud800']", "surrogate"),
        ([datetime(2020, 1, 1)], "value[0]", "time zone"),  # noqa: DTZ001
        ([Point(1, [object()])], "value[0].y[0]", "builtins.object"),
        ([Point], "value[0]", "type"),
        ([1j], "value[0]", "complex"),
    ],
)
def test_what_cannot_be_packed_is_named(value: Any, path: str, reason: str) -> None:
    with pytest.raises(errors.NotSerializable, match=reason) as failure:
        wire.pack_value(value)
    assert failure.value.details["path"] == path


def test_values_that_hold_themselves() -> None:
    with pytest.raises(errors.NotSerializable, match="hold themselves"):
        wire.pack_value(endless())


def nest(value: Any) -> Any:
    """`value` in 63 lists: with the frame's own array, as deep as a value may lie."""
    for _ in range(63):
        value = [value]
    return value


def test_depth_is_the_frames() -> None:
    value = nest(None)
    assert wire.decode(wire.encode_response(1, None, value)[4:])
    assert wire.decode(wire.encode_response(1, None, nest([]))[4:])
    for too_deep in ([value], (value,), {"a": value}, Point(1, [value]), OrderedDict(a=value)):
        with pytest.raises(errors.NotSerializable, match="nested deeper"):
            wire.encode_response(1, None, too_deep)


def test_a_change_of_packed_values() -> None:
    many = {f"k{n}": wire.pack_value(n) for n in range(40)}
    frame = wire.encode_change(9, many, ["d"], {"s": wire.pack_value("x")})
    assert wire.decode(frame[4:]) == wire.Change(
        9, {"set": {f"k{n}": n for n in range(40)}, "delete": ["d"], "secrets": {"s": "x"}}
    )
    assert wire.decode(wire.encode_change(9, {"a": b"\x01"})[4:]) == wire.Change(9, {"set": {"a": 1}})


def test_reasons_are_cut_to_their_limit() -> None:
    assert wire.decode(wire.encode_cancel(1, "é" * 200)[4:]) == wire.Cancel(1, "é" * 128)


def test_errors_keep_what_they_are() -> None:
    error = errors.error_from_wire({"code": "worker_lost", "message": "m", "retryable": True, "details": {"a": 1}})
    assert type(error) is errors.WorkerLost
    assert error.to_wire() == {"code": "worker_lost", "message": "m", "retryable": True, "details": {"a": 1}}
    assert errors.QueueFull("full").retryable
    assert type(errors.error_from_wire({})) is errors.InternalError
    assert str(errors.error_from_wire({"code": 5, "message": [], "details": 7})) == "internal: internal"


def test_the_client_for_threads_is_what_the_script_writes() -> None:
    script = Path(__file__).parents[1] / "unasync.py"
    found = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
