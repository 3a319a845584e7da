"""Datasets: rows under a name, of a session, kept in its state in parts, or for all, kept by the sidecar."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from dspex import wire
from dspex.errors import DspexError

from dspex_worker.calls import current_call
from dspex_worker.dspy_app.errors import Problem, invalid_param, invalid_params
from dspex_worker.dspy_app.optimise.rows import MAX_ROWS
from dspex_worker.session import Session

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.offered import Offered

MAX_DATASETS: Final = 100

_SHARE: Final = "sidecar.share"  # what the sidecar does with the rights of the call's client
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER: Final = "dataset."  # prefix of a dataset's key in the session's reserved state
_PART: Final = "rows."  # prefix of a part's, before its number and the name
_PART_BYTES: Final = 256 << 10


class Datasets:
    """Those of one session, inside one call of it."""

    def __init__(self, session: Session) -> None:
        self._reserved: MutableMapping[str, Any] = session.reserved

    def __contains__(self, name: str) -> bool:
        return _HEADER + name in self._reserved

    def names(self) -> list[str]:
        return sorted(key.removeprefix(_HEADER) for key in self._reserved if key.startswith(_HEADER))

    def create(self, name: str) -> None:
        """Raises DspexError ``invalid_params``: the name is none, or taken, or there are too many."""
        if not _NAME.fullmatch(name):
            raise invalid_param("name", "must be 1 to 64 letters, digits, - and _")
        if _HEADER + name in self._reserved:
            raise invalid_param("name", f"there is a dataset {name!r} already: delete it first, or append to it")
        if len(self.names()) >= MAX_DATASETS:
            raise invalid_param("name", f"the session has {MAX_DATASETS} datasets, which is the most")
        self._reserved[_HEADER + name] = {"rows": 0, "bytes": 0, "parts": 0, "created": int(time.time() * 1000)}

    def append(self, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Add rows to the end; returns what is told of it then. Raises DspexError ``invalid_params``."""
        header = self._header(name)
        if header["rows"] + len(rows) > MAX_ROWS:
            raise invalid_param("rows", f"would be {header['rows'] + len(rows)} of {name!r}; at most {MAX_ROWS} may be")
        sizes = [len(wire.pack_value(row, f"rows[{index}]")) for index, row in enumerate(rows)]
        part: list[dict[str, Any]] = []
        held = 0
        for row, size in zip(rows, sizes, strict=True):
            if part and held + size > _PART_BYTES:
                self._put(name, header, part)
                part, held = [], 0
            part.append(row)
            held += size
        if part:
            self._put(name, header, part)
        header["rows"] += len(rows)
        header["bytes"] += sum(sizes)
        self._reserved[_HEADER + name] = header
        return self.told(name)

    def rows(self, name: str) -> list[Any]:
        """All of them. Raises DspexError ``invalid_params``: there is no such dataset."""
        header = self._header(name)
        found: list[Any] = []
        for number in range(header["parts"]):
            part = self._reserved.get(f"{_PART}{number}.{name}")
            if not isinstance(part, list):
                raise invalid_param("dataset", f"{name[:64]!r} cannot be read: a part of it is missing; make it again")
            found += part
        return found

    def told(self, name: str) -> dict[str, Any]:
        header = self._header(name)
        created = datetime.fromtimestamp(header["created"] / 1000, UTC)
        return {"name": name, "scope": "session", "rows": header["rows"], "bytes": header["bytes"], "created": created}

    def delete(self, name: str) -> None:
        for number in range(self._header(name)["parts"]):
            self._reserved.pop(f"{_PART}{number}.{name}", None)
        del self._reserved[_HEADER + name]

    def _put(self, name: str, header: dict[str, Any], part: list[dict[str, Any]]) -> None:
        self._reserved[f"{_PART}{header['parts']}.{name}"] = part
        header["parts"] += 1

    def _header(self, name: str) -> dict[str, Any]:
        """Raises DspexError ``invalid_params``. A state may have come from a file: it is looked at."""
        header = self._reserved.get(_HEADER + name) if _NAME.fullmatch(name) else None
        if header is None:
            raise no_dataset(name, self.names())
        wanted = ("rows", "bytes", "parts", "created")
        if not isinstance(header, dict) or not all(type(header.get(key)) is int for key in wanted):
            raise invalid_param("dataset", f"{name[:64]!r} cannot be read: make it again")
        if not all(0 <= header[key] < 1 << 47 for key in wanted) or header["parts"] > MAX_ROWS:
            raise invalid_param("dataset", f"{name[:64]!r} cannot be read: make it again")
        return dict(header)


def no_dataset(name: str, there: Iterable[str]) -> DspexError:
    known = ", ".join(sorted(set(there))) or "none"
    return invalid_param("dataset", f"there is no dataset {name[:64]!r}; there are: {known}")


async def rows_by_name(session: Session | None, offered: Offered | None, names: Iterable[str]) -> Callable[[str], Any]:
    """What finds the rows of these datasets: the session's own, else one for all. It raises ``invalid_params``."""
    own = None if session is None else Datasets(session)
    fetched: dict[str, Any] = {}
    there = [] if own is None else own.names()
    for name in names:
        if offered is None or (own is not None and name in own):
            continue
        if (found := await offered.get(name)) is not None:
            fetched[name] = found[1]
        else:
            there += await offered.listed()

    def find(name: str) -> Any:
        if own is not None and name in own:
            return own.rows(name)
        if name not in fetched:
            raise no_dataset(name, there)
        return fetched[name]

    return find


class DatasetMethods:
    """Its methods' docstrings are what ``sidecar.methods`` shows."""

    def __init__(self, app: App) -> None:
        self._app = app

    def register(self, app: App) -> None:
        """Add them to the application."""
        app.method(name="dataset.list", read_only=True, retry="safe")(self.listed)
        app.method(name="dataset.create", retry="safe", inline=True)(self.create)
        app.method(name="dataset.append", inline=True)(self.append)
        app.method(name="dataset.delete", retry="safe", inline=True)(self.delete)
        app.method(name="dataset.share", read_only=True)(self.share)
        app.method(name="dataset.withdraw")(self.withdraw)

    def create(self, session: Session, name: str) -> dict[str, Any]:
        """Begin a dataset of this session, for evaluate_program and optimize_program; dataset.append adds its rows."""
        Datasets(session).create(name)
        return Datasets(session).told(name)

    def append(self, session: Session, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Add rows to a dataset: maps of a program's inputs and outputs. They are checked where a program uses them."""
        if problems := [Problem(f"rows[{index}]", "is empty") for index, row in enumerate(rows) if not row]:
            raise invalid_params(problems)
        return Datasets(session).append(name, rows)

    async def listed(self, session: Session | None) -> dict[str, Any]:
        """List the datasets of this session, and those that are for all."""
        own = [] if session is None else [Datasets(session).told(name) for name in Datasets(session).names()]
        shared = await self._offered.listed() if self._offered is not None else {}
        return {"datasets": own + [{"name": name, **told, "scope": "all"} for name, told in sorted(shared.items())]}

    def delete(self, session: Session, name: str) -> dict[str, Any]:
        """Delete a dataset of this session."""
        Datasets(session).delete(name)
        return {"name": name}

    async def share(self, session: Session, name: str) -> dict[str, Any]:
        """Make a dataset of this session available to all, as it is now. For administrators.

        It takes the place of one of that name; sessions that have one of their own keep that.
        """
        datasets = Datasets(session)
        told = datasets.told(name)
        del told["name"], told["scope"]
        await current_call().ask(_SHARE, {"dataset": name, "value": [told, datasets.rows(name)]})
        return {"name": name, **told, "scope": "all"}

    async def withdraw(self, name: str) -> dict[str, Any]:
        """Take away a dataset that an administrator made available to all. For administrators."""
        there = await self._offered.listed() if self._offered is not None else {}
        if name not in there:
            raise no_dataset(name, there)
        await current_call().ask(_SHARE, {"dataset": name, "value": None})
        return {"name": name}

    @property
    def _offered(self) -> Offered | None:
        return None if self._app.worker is None else self._app.worker.datasets
