"""The text of one LM answer, as it comes, taken apart into the fields of a signature.

DSPy's own stream listeners, made for one field each, hand out pieces of the JSON around a field and of the fields
after it. What is made here, joined, is the field's text: of a text field its value, of others their JSON or the
form that the model wrote.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Container
from typing import Protocol

Delta = tuple[str, str]  # field, text


class Splitter(Protocol):
    """Takes one LM answer apart."""

    def feed(self, text: str) -> list[Delta]:
        """What the next piece of the answer adds."""

    def finish(self) -> list[Delta]:
        """What was held back, now that the answer has ended."""


class ChatSplitter:
    """Answers of DSPy's chat adapter: ``[[ ## field ## ]]`` on a line of its own, then the value."""

    _MARKER = re.compile(r"\[\[ ## (\w+) ## \]\]")
    _BEGUN = re.compile(r"\[{1,2} ?#{0,2} ?\w{0,64} ?#{0,2} ?\]?$")  # what may become a marker with the next piece

    def __init__(self, fields: Container[str]) -> None:
        self._fields = fields
        self._seen: set[str] = set()
        self._field: str | None = None
        self._begun = False  # the field's text has begun: what was blank before it is not its own
        self._held = ""

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while marker := self._MARKER.search(self._held):
            found += self._text(self._held[: marker.start()].rstrip())
            self._held = self._held[marker.end() :]
            name = marker[1]
            self._field = name if name in self._fields and name not in self._seen else None
            self._seen.add(name)
            self._begun = False
        begun = self._BEGUN.search(self._held)
        ready = self._held[: begun.start()] if begun else self._held
        ready = ready.rstrip()  # blanks are the value's own only when more of it follows
        self._held = self._held[len(ready) :]
        return found + self._text(ready)

    def finish(self) -> list[Delta]:
        held, self._held = self._held.rstrip(), ""
        return self._text(held)

    def _text(self, text: str) -> list[Delta]:
        if self._field is None:
            return []
        if not self._begun:
            text = text.lstrip()
        if not text:
            return []
        self._begun = True
        return [(self._field, text)]


class XmlSplitter:
    """Answers of DSPy's XML adapter: ``<field>``, the value, ``</field>``."""

    _OPEN = re.compile(r"<(\w+)>")
    _BEGUN = re.compile(r"<[\w/]{0,64}$|&#?\w{0,8}$")  # what may become a tag, or a character, with the next piece

    def __init__(self, fields: Container[str]) -> None:
        self._fields = fields
        self._seen: set[str] = set()
        self._field: str | None = None
        self._begun = False  # likewise
        self._held = ""

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._step(found):
            pass
        if self._field is None:
            self._held = self._held[-80:]  # no tag is longer
        else:
            begun = self._BEGUN.search(self._held)
            ready = (self._held[: begun.start()] if begun else self._held).rstrip()
            self._held = self._held[len(ready) :]
            found += self._text(ready)
        return found

    def finish(self) -> list[Delta]:
        held, self._held = self._held.rstrip(), ""
        return self._text(held)

    def _step(self, found: list[Delta]) -> bool:
        """Pass the next tag that begins or ends a field."""
        if self._field is not None:
            before, end, after = self._held.partition(f"</{self._field}>")
            if not end:
                return False
            found += self._text(before.rstrip())
            self._field, self._held = None, after
            return True
        for tag in self._OPEN.finditer(self._held):
            if tag[1] in self._fields and tag[1] not in self._seen:
                self._field, self._begun, self._held = tag[1], False, self._held[tag.end() :]
                self._seen.add(tag[1])
                return True
        return False

    def _text(self, text: str) -> list[Delta]:
        if self._field is None:
            return []
        text = html.unescape(text if self._begun else text.lstrip())
        if not text:
            return []
        self._begun = True
        return [(self._field, text)]


class JsonSplitter:
    """Answers of DSPy's JSON adapter: one object, of which each member is a field."""

    def __init__(self, fields: Container[str]) -> None:
        self._fields = fields
        self._read: Callable[[str], str] = (
            self._before
        )  # what takes the next character; it returns what that adds to the field's text
        self._name = ""
        self._escape = ""  # an escape sequence that is not complete
        self._depth = 0  # of brackets in a value that is no text
        self._quoted = False  # inside a text inside such a value

    def feed(self, text: str) -> list[Delta]:
        pieces: dict[str, list[str]] = {}
        for character in text:
            name, piece = self._name, self._read(character)
            if piece and name in self._fields:
                pieces.setdefault(name, []).append(piece)
        return [(name, "".join(found)) for name, found in pieces.items()]

    def finish(self) -> list[Delta]:
        return []

    def _before(self, character: str) -> str:
        if character == "{":
            self._read = self._between
        return ""

    def _between(self, character: str) -> str:
        """Between members."""
        if character == '"':
            self._name, self._read = "", self._in_name
        elif character == "}":
            self._read = self._after
        return ""

    def _in_name(self, character: str) -> str:
        if character == '"' and not self._escape:
            self._read = self._before_value
        else:
            self._name += self._unescaped(character)
        return ""

    def _before_value(self, character: str) -> str:
        if character == '"':
            self._read = self._in_text
            return ""
        if character in ": \t\r\n":
            return ""
        self._depth, self._quoted, self._read = 0, False, self._in_other
        return self._in_other(character)

    def _in_text(self, character: str) -> str:
        if character == '"' and not self._escape:
            self._read = self._between
            return ""
        return self._unescaped(character)

    def _in_other(self, character: str) -> str:
        """In a value that is no text: its JSON is handed out."""
        if self._quoted:
            self._quoted = character != '"' or bool(self._escape)
            self._escape = "" if self._escape or character != "\\" else character
            return character
        if self._depth == 0 and character in ",}":
            self._read = self._between if character == "," else self._after
            return ""
        self._depth += (character in "[{") - (character in "]}")
        self._quoted = character == '"'
        return "" if self._depth == 0 and character.isspace() else character

    def _after(self, _character: str) -> str:
        return ""

    def _unescaped(self, character: str) -> str:
        if not self._escape:
            if character != "\\":
                return character
            self._escape = character
            return ""
        self._escape += character
        if self._escape[1] == "u" and len(self._escape) < 6:
            return ""
        if re.match(r"\\u[dD][89abAB]", self._escape) and len(self._escape) < 12:
            return ""  # the first half of a pair
        text, self._escape = self._escape, ""
        try:
            return str(json.loads(f'"{text}"')).encode(errors="replace").decode()
        except ValueError:
            return text
