"""The pieces of a field, joined, are its value, however the answer was cut on its way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from dspex_worker.dspy_app.deltas import ChatSplitter, JsonSplitter, Splitter
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def pieces(text: str, seed: int) -> Iterator[str]:
    cut = random.Random(seed)
    while text:
        length = cut.choice((1, 1, 2, 3, 7, 40))
        yield text[:length]
        text = text[length:]


def joined(splitter: Splitter, text: str, seed: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in pieces(text, seed):
        for field, delta in splitter.feed(piece):
            assert delta
            found[field] = found.get(field, "") + delta
    for field, delta in splitter.finish():
        found[field] = found.get(field, "") + delta
    return found


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3), st.integers(), st.booleans(), st.sampled_from((None, 2)))
def test_json(first: str, second: str, tags: list[str], seed: int, ascii_only: bool, indent: int | None) -> None:
    answer = {"first": first, "other": {"x": [1, '"}']}, "tags": tags, "count": 12, "second": second}
    text = json.dumps(answer, ensure_ascii=ascii_only, indent=indent)
    found = joined(JsonSplitter({"first", "second", "tags", "count"}), f"```json\n{text}\n```", seed)
    assert found.get("first", "") == first
    assert found.get("second", "") == second
    assert json.loads(found["tags"]) == tags
    assert found["count"] == "12"
    assert set(found) <= {"first", "second", "tags", "count"}


@given(TEXTS, TEXTS, st.integers(), st.booleans())
def test_chat(first: str, second: str, seed: int, completed: bool) -> None:
    end = "\n\n[[ ## completed ## ]]" if completed else ""
    text = f"[[ ## reasoning ## ]]\nhm\n\n[[ ## first ## ]]\n{first}\n\n[[ ## second ## ]]\n{second}{end}\n"
    found = joined(ChatSplitter({"first", "second"}), text, seed)
    assert found.get("first", "") == first.strip()
    assert found.get("second", "") == second.strip()
    assert set(found) <= {"first", "second"}


@pytest.mark.parametrize("value", ["a [b] c", "[[", "x [[ ## ", "[[1]]", "[ ## a ## ]"])
def test_chat_keeps_brackets_of_the_value(value: str) -> None:
    for seed in range(20):
        text = f"[[ ## first ## ]]\n{value}\n\n[[ ## completed ## ]]"
        assert joined(ChatSplitter({"first"}), text, seed) == {"first": value.strip()}


def test_text_comes_as_soon_as_it_can() -> None:
    chat = ChatSplitter({"a"})
    assert chat.feed("[[ ## a ## ]]\nHello") == [("a", "Hello")]
    assert chat.feed(" wor") == [("a", " wor")]
    as_json = JsonSplitter({"a"})
    assert as_json.feed('{"a": "Hel') == [("a", "Hel")]
    assert as_json.feed("lo\\u00e") == [("a", "lo")]
    assert as_json.feed('9"') == [("a", "é")]


@pytest.mark.parametrize(
    "text", ["no object", "{", '{"a', '{"a": tru', "]]}}{{", '{"a": "\\ud83d', '{"a": "\\q\\ud83dx"}', "\\\\"]
)
def test_broken_answers_do_no_harm(text: str) -> None:
    for seed in range(5):
        joined(JsonSplitter({"a"}), text, seed)
        joined(ChatSplitter({"a"}), text, seed)
