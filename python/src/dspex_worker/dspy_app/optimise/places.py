"""Where a run's rows run: on threads of its own process, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from dspex.errors import DspexError

from dspex_worker.dspy_app.optimise import ray_nodes
from dspex_worker.dspy_app.optimise.elsewhere import Elsewhere, told_to_nodes
from dspex_worker.dspy_app.optimise.metrics import Metric
from dspex_worker.dspy_app.optimise.run import Run
from dspex_worker.dspy_app.optimise.runs_as import waiting
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.settings import LmSettings

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.dspy_app.methods import DspyApp

_MOST: Final = {"local": 32, "ray": 256}  # rows at once

Placed = tuple[list[Program], Metric]


class Places:
    """What ``[optimize]`` of the configuration says."""

    def __init__(self, dspy_app: DspyApp, app: App) -> None:
        self._dspy_app = dspy_app
        self._app = app

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = (self._app.worker and self._app.worker.dspy.get("optimize")) or {}
        return settings

    @property
    def most(self) -> int:
        """How many rows may run at once."""
        return _MOST[self._settings.get("executor") or "local"]

    @contextmanager
    def of(
        self, run: Run, programs: Sequence[Program], metric: Metric, rows: int, settings: LmSettings | DspexError
    ) -> Iterator[Placed]:
        """The programs and the metric such that they run where they are to. On the run's thread."""
        if self._settings.get("executor") != "ray":
            yield [waiting(program, run.wait) for program in programs], metric
            return
        assert self._app.worker is not None
        told = told_to_nodes(self._app, self._app.worker, programs, settings, self._dspy_app.tracebacks)
        run.progress.phase("connect")
        with ray_nodes.connected(self._settings["address"], told, rows, run) as nodes:
            elsewhere = Elsewhere(nodes, self._app, run.call)
            placed = [elsewhere.program(number, program) for number, program in enumerate(programs)]
            yield placed, elsewhere.metric(metric, 0, programs[0])
