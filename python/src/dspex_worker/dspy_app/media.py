"""Images, sounds and files in inputs: from bytes; from addresses and paths only where the operator permits it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dspy
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

MEDIA: Final = (dspy.Image, dspy.Audio, dspy.File)

MAX_FILE: Final = 16 << 20  # bytes read from the operator's folders for one input

_FAMILIES: Final[dict[type[Any], str]] = {dspy.Image: "image/", dspy.Audio: "audio/"}
_TYPE: Final = re.compile(r"[a-z]{1,32}/[A-Za-z0-9][A-Za-z0-9.+-]{0,100}")
_KEYS: Final = frozenset({"data", "media_type", "filename", "url", "path"})
# DSPy makes parts of a message of what stands between these in any text.
MARKERS: Final = ("<<CUSTOM-TYPE-START-IDENTIFIER>>", "<<CUSTOM-TYPE-END-IDENTIFIER>>")

# How files of a type begin. RIFF is looked at again.
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
)
# What OpenAI's interface calls a format where that is not the media type's name.
_FORMATS: Final = {"mpeg": "mp3"}
_RIFF: Final = {b"WAVE": "audio/wav", b"WEBP": "image/webp"}

SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "contentEncoding": "base64"},
        {
            "type": "object",
            "properties": {
                "data": {"type": "string", "contentEncoding": "base64"},
                "media_type": {"type": "string"},
                "filename": {"type": "string"},
                "url": {"type": "string"},
                "path": {"type": "string"},
            },
            "additionalProperties": False,
        },
    ]
}


@dataclass(frozen=True)
class Permissions:
    """What the operator allows programs to do."""

    media_urls: bool = False  # inputs may be addresses, and ids of files at the provider
    media_folders: tuple[Path, ...] = ()  # inputs may be files in these
    program_of_thought: bool = False  # code that an LM wrote may be run

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Permissions:
        """From the configuration, which the sidecar has checked."""
        folders = tuple(Path(folder).resolve() for folder in given.get("media_folders") or ())
        return cls(bool(given.get("media_urls")), folders, bool(given.get("program_of_thought")))


NOTHING: Final = Permissions()


def to_media(kind: type[Any], value: Any, permissions: Permissions) -> Any:
    """The ``dspy`` object of what a client sent for it. Raises PydanticCustomError."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str) and value.startswith("data:"):
        return _of_data_uri(kind, value)
    if isinstance(value, bytes):
        value = {"data": value}
    if not isinstance(value, Mapping) or not value.keys() <= _KEYS:
        raise wrong("must be bytes, or a map of data and media_type")
    if (
        len([key for key in ("data", "url", "path") if key in value]) != 1
        or not all(isinstance(held, str) for key, held in value.items() if key != "data")
        or len(value.get("filename", "")) > 256
    ):
        raise wrong("must have one of data (bytes), url and path; media_type and filename are text")
    if "url" in value:
        return _of_url(kind, value["url"], permissions)
    data = value["data"] if "data" in value else _file(value["path"], permissions)
    if not isinstance(data, bytes):
        raise wrong("data must be bytes")
    return _of_bytes(kind, data, value.get("media_type"), value.get("filename"))


def empty(kind: type[Any]) -> Any:
    """One of a kind with nothing in it."""
    return _of_bytes(kind, b"", f"{_FAMILIES.get(kind, 'application/')}x", None)


def _of_bytes(kind: type[Any], data: bytes, media_type: str | None, filename: str | None) -> Any:
    media_type = media_type or _sniffed(data)
    if media_type is None and kind is dspy.File:
        media_type = "application/octet-stream"
    family = _FAMILIES.get(kind, "")
    if media_type is None:
        raise wrong(f"say its media_type ({family}…): the bytes do not tell it")
    if not _TYPE.fullmatch(media_type) or not media_type.startswith(family):
        raise wrong(f"media_type is {media_type[:120]!r}, must be {family or 'type/'}…")
    encoded = base64.b64encode(data).decode()
    if kind is dspy.Audio:
        audio_format = media_type.removeprefix("audio/").removeprefix("x-")
        return dspy.Audio(data=encoded, audio_format=_FORMATS.get(audio_format, audio_format))
    uri = f"data:{media_type};base64,{encoded}"
    return dspy.File(file_data=uri, filename=filename) if kind is dspy.File else dspy.Image(uri)


def _of_data_uri(kind: type[Any], uri: str) -> Any:
    head, _, encoded = uri.partition(";base64,")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise wrong("the data: address is not in base64") from None
    return _of_bytes(kind, data, head.removeprefix("data:"), None)


def media_map(value: Any) -> dict[str, Any]:
    """What a client is told of a ``dspy`` object: the map that it would send for it. DSPy's own form is its marks."""
    if isinstance(value, dspy.Audio):
        named = {audio_format: media_type for media_type, audio_format in _FORMATS.items()}
        return {"data": _bytes(value.data), "media_type": f"audio/{named.get(value.audio_format, value.audio_format)}"}
    told: dict[str, Any] = {}
    uri = (value.url if isinstance(value, dspy.Image) else value.file_data) or ""
    head, in_base64, encoded = uri.partition(";base64,")
    if in_base64 and head.startswith("data:"):
        told = {"data": _bytes(encoded), "media_type": head.removeprefix("data:")}
    elif uri:
        told = {"url": uri}
    if isinstance(value, dspy.File):
        more = {"filename": value.filename, "file_id": value.file_id}
        told |= {name: held for name, held in more.items() if held is not None}
    return told


def _bytes(encoded: str) -> bytes | str:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:  # an LM may have written it
        return encoded


def _of_url(kind: type[Any], url: str, permissions: Permissions) -> Any:
    if kind is not dspy.Image:
        raise wrong("an address is for images only: send the bytes")
    if not permissions.media_urls:
        raise wrong("addresses are not allowed here ([dspy] media_urls); send the bytes")
    if len(url) > 4096 or not url.isprintable() or not url.startswith(("https://", "http://")):
        raise wrong("url must be an http or https address")
    return dspy.Image(url)


def _file(path: str, permissions: Permissions) -> bytes:
    if not permissions.media_folders:
        raise wrong("files are not allowed here ([dspy] media_folders); send the bytes")
    try:
        found = Path(path).resolve(strict=True) if Path(path).is_absolute() else None
        allowed = found is not None and any(found.is_relative_to(folder) for folder in permissions.media_folders)
        if found is not None and allowed and found.is_file() and found.stat().st_size <= MAX_FILE:
            return found.read_bytes()
    except (OSError, ValueError):
        pass
    # The same for what is not there and for what is elsewhere: a client learns of no other folder's files.
    raise wrong(f"path is no file of at most {MAX_FILE} bytes in one of the folders of [dspy] media_folders")


def _sniffed(data: bytes) -> str | None:
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)


def wrong(message: str) -> PydanticCustomError:
    """The error of a validator that says so."""
    return PydanticCustomError("media", message.replace("{", "{{").replace("}", "}}"))


def forbidden(value: Any, permissions: Permissions) -> Iterator[str]:
    """What in an input, the application's own types included, the operator has not permitted."""
    if isinstance(value, str):
        if any(marker in value for marker in MARKERS):
            yield "holds a mark that DSPy keeps for itself (CUSTOM-TYPE-…-IDENTIFIER)"
    elif isinstance(value, dspy.Image):
        if not (permissions.media_urls or value.url.startswith("data:")):
            yield "is an address, which is not allowed here ([dspy] media_urls); send the bytes"
    elif isinstance(value, dspy.File):
        if not permissions.media_urls and (value.file_id or not (value.file_data or "").startswith("data:")):
            yield "names a file that is elsewhere, which is not allowed here ([dspy] media_urls); send the bytes"
    elif isinstance(value, BaseModel):
        for held in dict(value).values():
            yield from forbidden(held, permissions)
    elif isinstance(value, Mapping):
        for key, held in value.items():
            yield from forbidden(key, permissions)
            yield from forbidden(held, permissions)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for held in value:
            yield from forbidden(held, permissions)
