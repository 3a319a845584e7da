"""The vectors that all implementations of the protocol run."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import datetime
from typing import Any

import msgpack
import pytest
import vectors
from dspex import wire
from dspex.wire import ContentError, EnvelopeError, StructureError

NAMES = ("frames", "values", "structure", "envelopes", "content", "meta")
ALL = [pytest.param(v, id=f"{name}: {v['name']}") for name in NAMES for v in vectors.load(name)]


def judge(body: bytes, *, scanned: bool = False) -> tuple[str, Any]:
    """The verdict, and the message or the id."""
    try:
        message = wire.decode(body, scanned=scanned)
        if isinstance(message, wire.Request):
            wire.check_request_meta(message.meta, message.id)
    except StructureError:
        return "structure", None
    except EnvelopeError as error:
        return "envelope", error.id
    except ContentError as error:
        return "content", error.id
    return ("unknown_kind" if isinstance(message, wire.Unknown) else "ok"), message


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("vector", ALL)
def test_verdict(vector: dict[str, Any], kind: type[bytes]) -> None:
    body = kind(vectors.expand(vector["body"]))
    verdict, found = judge(body)
    assert verdict == vector["verdict"]
    if verdict in ("envelope", "content"):
        assert found == vector["envelope"]["id"]
    if verdict == "ok":
        check_message(vector, found)
    if verdict != "structure":  # a worker need not look at the structure again, and finds the same
        assert judge(body, scanned=True)[0] == verdict


def test_plain_requests_are_what_decode_makes_of_them() -> None:
    """Alone and among all others, whatever those are."""
    bodies = [bytes(vectors.expand(vector["body"])) for name in NAMES for vector in vectors.load(name)]
    bodies = [body for body in bodies if judge(body)[0] != "structure"]
    reader = wire.PlainRequests()
    together = reader.read(list(bodies))
    assert len(together) == len(bodies)
    found = 0
    for body, one in zip(bodies, together, strict=True):
        assert reader.read([body]) == [one]
        if isinstance(one, list):
            found += 1
            assert one[0] == wire.Kind.REQUEST
            assert tuple(one[1:]) == wire.decode(body, scanned=True)
        else:
            assert one is body
    assert found > 10


@pytest.mark.parametrize(
    "params",
    [
        b"\x82\xa1a\x01\xa1a\x01",  # a key twice
        b"\x81\xa1b\x82\xa1a\x01\xa1a\x02",  # and inside of a value
        b"\x81\xc4\x01a\x01",  # a byte string as key
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa1a\xd4\x01\x00",  # another extension
        b"\x81\xa1a\xa1\xe9",  # not UTF-8
        b"\x81\xa1a\xd9\x01b",  # a longer form than it takes
    ],
)
def test_what_is_not_plain_is_left_to_decode(params: bytes) -> None:
    odd = b"\x95\x00\x07\xa1m\x80" + params
    plain = b"\x95\x00\x08\xa1m\x80\x81\xa1a\xa1b"
    assert wire.PlainRequests().read([plain, odd, plain]) == [
        [0, 8, "m", {}, {"a": "b"}],
        odd,
        [0, 8, "m", {}, {"a": "b"}],
    ]


def check_message(vector: dict[str, Any], message: Any) -> None:
    fields = {"kind": wire.Kind[type(message).__name__.upper()], **message._asdict()}
    for name, expected in vector["envelope"].items():
        expected = untagged(expected)
        assert fields[name] == ({} if name == "meta" and expected is None else expected)
    payload = message[-1]
    if "value" in vector:
        expected = untagged(vector["value"])
        if expected is None and isinstance(message, (wire.Request, wire.Notification)):
            expected = {}
        assert same(payload, expected)
    if "payload" in vector and not isinstance(message, (wire.Request, wire.Notification)):
        data = vectors.expand(vector["payload"])
        assert same(wire.decode_value(data), payload)
        assert same(wire.decode_value(wire.pack_value(payload)), payload)


def untagged(value: Any) -> Any:
    value = vectors.untag(value)
    if isinstance(value, msgpack.Timestamp):
        try:
            return value.to_datetime()
        except OverflowError:
            return value
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if isinstance(value, dict):
        return {key: untagged(item) for key, item in value.items()}
    return value


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all through; nan is nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, datetime):
        return bool(a == b and a.utcoffset() == b.utcoffset())
    return bool(a == b)


def test_meta_is_checked_by_receivers_of_requests_only() -> None:
    for vector in vectors.load("meta"):
        assert isinstance(wire.decode(vectors.expand(vector["body"])), wire.Request)


@pytest.mark.parametrize("portion", [1, 3, 4096, None])
@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in vectors.load("framing")])
def test_framing(vector: dict[str, Any], portion: int | None) -> None:
    stream = vectors.expand(vector["stream"])
    splitter = wire.FrameSplitter(vector["max_frame"])
    events: list[wire.Event] = []
    for start in range(0, len(stream), portion or len(stream) or 1):
        events += splitter.feed(stream[start : start + (portion or len(stream))])
    assert [describe(event) for event in events] == [
        {"body": vectors.expand(event["body"])} if "body" in event else event for event in vector["events"]
    ]
    assert splitter.idle is not vector["incomplete"]


def describe(event: wire.Event) -> dict[str, Any]:
    if isinstance(event, wire.TooLong):
        kind, id = event.kind_and_id() or (None, None)
        return {"too_long": {"length": event.length, "kind": kind, "id": id}}
    if isinstance(event, StructureError):
        return {"broken": "length 0"}
    return {"body": bytes(event)}


def test_files_are_what_the_script_writes() -> None:
    script = vectors.FOLDER / "generate.py"
    found = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
