"""The methods that evaluate and optimise programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import dspy

from dspex_worker.calls import current_call
from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.lm_errors import lm_error
from dspex_worker.dspy_app.modules import predictors
from dspex_worker.dspy_app.nearest import nearest
from dspex_worker.dspy_app.optimise.budget import Limits
from dspex_worker.dspy_app.optimise.compiling import Choose, Compiling, Made, Others, measured
from dspex_worker.dspy_app.optimise.datasets import rows_by_name
from dspex_worker.dspy_app.optimise.metrics import Metric, read_metric
from dspex_worker.dspy_app.optimise.parameters import Nearest, Parameters, read_optimiser
from dspex_worker.dspy_app.optimise.places import Places
from dspex_worker.dspy_app.optimise.problems import Problems
from dspex_worker.dspy_app.optimise.progress import Item, Progress
from dspex_worker.dspy_app.optimise.results import evaluation, failures
from dspex_worker.dspy_app.optimise.rows import RowChecker, Rows, split
from dspex_worker.dspy_app.optimise.run import Run
from dspex_worker.dspy_app.optimise.scoring import Scorer, Scores, translated
from dspex_worker.dspy_app.optimise.states import as_saved, differences, state_of
from dspex_worker.dspy_app.programs import Program
from dspex_worker.dspy_app.records import Record
from dspex_worker.dspy_app.settings import LmSettings
from dspex_worker.session import Session

if TYPE_CHECKING:
    from dspex_worker.app import App
    from dspex_worker.dspy_app.methods import DspyApp

_SEEDS: Final = 1 << 31
_MADE_OF: Final = ("signature", "module", "parameters", "tools", "memory", "nearest")

RowsGiven = list[dict[str, Any]] | str


@dataclass
class Asked:
    """What both methods are asked, as it was read."""

    program: Program
    metric: Metric
    limits: Limits
    concurrency: int
    max_errors: int | None
    others: dict[str, LmSettings]


class OptimiseMethods:
    """Their docstrings are what ``sidecar.methods`` shows."""

    def __init__(self, dspy_app: DspyApp, app: App) -> None:
        self._dspy_app = dspy_app
        self._app = app
        self._places = Places(dspy_app, app)

    def register(self, app: App) -> None:
        """Add them to the application."""
        app.method(name="evaluate_program", read_only=True, process="own")(self.evaluate_program)
        app.method(name="optimize_program", process="own")(self.optimize_program)
        app.method(name="diff_versions", read_only=True, retry="safe", inline=True)(self.diff_versions)

    async def evaluate_program(
        self,
        program: str,
        devset: RowsGiven,
        metric: str | dict[str, Any],
        session: Session | None,
        version: int | None = None,
        concurrency: int = 8,
        max_errors: int | None = None,
        outputs: bool = False,
        limits: dict[str, Any] | None = None,
    ) -> AsyncIterator[Item]:
        """Score a program on rows of data, given or the name of a dataset: its mean score, and that of each row.

        The metric is one of the application's by name, or exact, f1, contains, or {name: "judge", rubric, model}. With
        outputs, what the program answered is told, too. Limits: seconds, lm_calls, tokens, cost.
        """
        problems = Problems()
        found = self._find(program, session, version)
        asked = self._asked(found, metric, limits, concurrency, max_errors, problems)
        rows = self._checker(found, asked, problems).read("devset", devset, await self._finder(session, devset))
        problems.check()
        assert asked is not None
        assert rows is not None
        settings = self._dspy_app.settings(program, session)
        run = Run(self._dspy_app.executor, found, current_call(), asked.limits)
        scores = Scores()

        def work(others: Others) -> Scores:
            with self._places.of(run, [found], asked.metric, asked.concurrency, settings) as ([placed], metric):
                run.progress.phase("evaluate", examples=len(rows.examples))
                scoring = replace(asked, metric=measured(metric, others))
                return self._score(run.progress, placed.for_call(), rows, scoring, settings, scores)

        run.best = lambda: evaluation(scores, outputs=False) if scores.rows else None
        async for item in run.stream("evaluation", work, settings, asked.others):
            yield item
        told: Item = {"program": program, "version": found.record.version if found.record else None}
        told |= {"metric": asked.metric.told, "data": rows.told(), "usage": run.usage.told()}
        current_call().result = told | evaluation(run.result, outputs)

    async def optimize_program(
        self,
        program: str,
        optimizer: str,
        trainset: RowsGiven,
        metric: str | dict[str, Any],
        session: Session | None,
        valset: RowsGiven | None = None,
        parameters: dict[str, Any] | None = None,
        seed: int = 0,
        holdout: float = 0.3,
        concurrency: int = 8,
        max_errors: int | None = None,
        use: Literal["better", "always", "never"] = "better",
        limits: dict[str, Any] | None = None,
    ) -> AsyncIterator[Item]:
        """Compile a program against data, and keep what comes of it as a new version of it.

        The optimizer is labeled, bootstrap, random_search, knn, copro, mipro, gepa or simba. It learns from the
        trainset; score and baseline are of the valset, which no optimizer sees: where none is given, a part of the
        trainset (holdout), chosen by the seed. The version is in use from then on if its score is better, or as "use"
        says. Of the programs of the application the new state is returned; of one for all the session gets its own.
        """
        problems = Problems()
        found = self._find(program, session, None)
        name, chosen = read_optimiser(optimizer, parameters, problems)
        asked = self._asked(found, metric, limits, concurrency, max_errors, problems, chosen)
        choose = self._nearest(found, chosen, problems) if isinstance(chosen, Nearest) else None
        checker = self._checker(found, asked, problems)
        find = await self._finder(session, trainset, valset)
        train, held = self._split(checker, trainset, valset, seed, holdout, find, problems)
        problems.check()
        assert asked is not None
        assert chosen is not None
        assert train is not None
        assert held is not None
        settings = self._dspy_app.settings(program, session)
        run = Run(self._dspy_app.executor, found, current_call(), asked.limits)
        most = max(10, len(train.examples) // 2) if max_errors is None else max_errors
        base, rows = self._plain(found, session), train.examples
        about = (asked.metric, concurrency, seed, most, choose)
        compiling = Compiling(run.progress, base, name, chosen, rows, *about)

        def work(others: Others) -> tuple[Scores, Scores, Made]:
            with self._places.of(run, [found, base], asked.metric, concurrency, settings) as (placed, metric):
                compiling.program, compiling.metric = placed[1], measured(metric, others)
                scoring = replace(asked, metric=compiling.metric)
                score = partial(self._score, run.progress, rows=held, asked=scoring, settings=settings)
                run.progress.phase("baseline", examples=len(held.examples))
                before = score(placed[0].for_call())
                run.progress.scored(before.mean)
                made = compiling.make(others)
                run.progress.phase("score", examples=len(held.examples))
                after = score(compiling.module(made))
                run.progress.scored(after.mean)
                return before, after, made

        run.best = compiling.best
        async for item in run.stream(
            "optimization", work, settings, asked.others, max_errors=most, num_threads=concurrency
        ):
            yield item
        before, after, made = run.result
        meta: Item = {
            "optimizer": name,
            "parameters": chosen.model_dump(exclude_none=True),
            "metric": asked.metric.told,
        }
        meta |= {"score": after.mean, "baseline": before.mean, "seed": seed}
        meta |= {"data": {"train": train.told(), "held_out": held.told()}, "usage": run.usage.told()}
        meta |= {"model": settings.name if isinstance(settings, LmSettings) else None}
        told = {"program": program, "improved": after.mean > before.mean, **meta, **failures(after)}
        current_call().result = told | self._keep(found, session, made, meta, use)

    def diff_versions(self, session: Session, program: str, version: int, other: int | None = None) -> dict[str, Any]:
        """Compare two versions of a program of this session: instructions and demos side by side.

        From "version" to "other", or to the one in use.
        """
        programs = self._dspy_app.programs(session)
        records = [programs.record(program, version), programs.record(program, other)]
        built = [programs.build(program, replace(record, nearest=None)) for record in records]
        states = [state_of(one.for_call()) for one in built]
        changed = [name for name in _MADE_OF if getattr(records[0], name) != getattr(records[1], name)]
        told = {"program": program, "from": records[0].told(), "to": records[1].told(), "changed": changed}
        return told | {"predictors": differences(*states)}

    def _find(self, program: str, session: Session | None, version: int | None) -> Program:
        if version is None:
            return self._dspy_app.find(program, session)
        if session is None or self._dspy_app.is_applications(program):
            raise invalid_param("version", "is for programs of a session")
        programs = self._dspy_app.programs(session)
        return programs.build(program, programs.record(program, version))

    def _plain(self, program: Program, session: Session | None) -> Program:
        """The program as optimisers take it: one that chooses its demos is one of fixed demos again."""
        if program.record is None or program.record.nearest is None or session is None:
            return program
        return self._dspy_app.programs(session).build(program.id, replace(program.record, nearest=None))

    def _asked(
        self,
        program: Program,
        metric: object,
        limits: object,
        concurrency: int,
        max_errors: int | None,
        problems: Problems,
        parameters: Parameters | None = None,
    ) -> Asked | None:
        if not 1 <= concurrency <= self._places.most:
            problems.add("concurrency", f"must be 1 to {self._places.most}")
        if max_errors is not None and not 0 <= max_errors <= 1_000_000:
            problems.add("max_errors", "must be a whole number from 0")
        measure = read_metric(metric, self._app.scorers, problems)
        if measure is not None and measure.fields is not None and program.outputs is not None:
            names = [field.name for field in program.outputs]
            if measure.fields.field not in (None, *names):
                problems.add("metric.field", f"must be one of the program's outputs: {', '.join(names)}")
                measure = None
        bounds = problems.read(Limits, limits, "limits")
        others: dict[str, LmSettings] = {}
        named = [] if parameters is None else [(key, f"parameters.{key}", v) for key, v in parameters.models.items()]
        if measure is not None and measure.judge is not None and measure.judge.model is not None:
            named.append(("judge", "metric.model", measure.judge.model))
        for key, path, model in named:
            if (chosen := problems.attempt(partial(self._dspy_app.model, model), path)) is not None:
                others[key] = chosen
        if measure is None or bounds is None:
            return None
        return Asked(program, measure, bounds, concurrency, max_errors, others)

    def _nearest(self, program: Program, parameters: Nearest, problems: Problems) -> Choose | None:
        """How a program comes to choose its demos; names the embedder that is meant in ``parameters``."""
        if program.record is None:
            problems.add("optimizer", "'knn' is for programs of a session: an application's has no demos to choose")
            return None
        if len(predictors(program.for_call())) != 1:
            problems.add("optimizer", "'knn' is for programs of one predictor")
        settings = problems.attempt(partial(self._app.embedders.find, parameters.embedder), "parameters.embedder")
        if settings is None:
            return None
        parameters.embedder = settings.name
        inputs = tuple(field.name for field in program.inputs or ())
        return lambda module, told: nearest(module, told, inputs, self._app.embedder)

    def _checker(self, program: Program, asked: Asked | None, problems: Problems) -> RowChecker:
        more = asked is not None and asked.metric.told["name"] in self._app.scorers
        lacks = asked.metric.lacks if asked is not None else lambda _: None
        return RowChecker(program, self._dspy_app.permissions, more, lacks, problems)

    async def _finder(self, session: Session | None, *given: object) -> Callable[[str], Any]:
        offered = None if self._app.worker is None else self._app.worker.datasets
        return await rows_by_name(session, offered, [name for name in given if isinstance(name, str)])

    def _split(
        self,
        checker: RowChecker,
        trainset: RowsGiven,
        valset: RowsGiven | None,
        seed: int,
        holdout: float,
        find: Callable[[str], Any],
        problems: Problems,
    ) -> tuple[Rows | None, Rows | None]:
        if not 0 <= seed < _SEEDS:
            problems.add("seed", f"must be a whole number from 0 to {_SEEDS - 1}")
        if not 0 < holdout <= 0.9:
            problems.add("holdout", "must be above 0, and at most 0.9")
        train = checker.read("trainset", trainset, find)
        if valset is not None:
            return train, checker.read("valset", valset, find)
        if train is None or problems.found:
            return train, None
        if len(train.examples) < 3:
            problems.add("valset", "must be given: the trainset is too small to hold a part of it out")
            return train, None
        return split(train, holdout, seed)

    def _score(
        self,
        progress: Progress,
        module: dspy.Module,
        rows: Rows,
        asked: Asked,
        settings: object,
        scores: Scores | None = None,
    ) -> Scores:
        known = settings if isinstance(settings, LmSettings) else None
        translate = partial(
            translated, known=lambda error: lm_error(error, known), tracebacks=self._dspy_app.tracebacks
        )
        scorer = Scorer(asked.metric, asked.concurrency, asked.max_errors, translate)
        return scorer.run(module, rows.examples, lambda so_far: progress.example(len(so_far.rows), so_far.mean), scores)

    def _keep(
        self, program: Program, session: Session | None, made: Made, meta: dict[str, Any], use: str
    ) -> dict[str, Any]:
        current = use == "always" or (use == "better" and meta["score"] > meta["baseline"])
        own = program.scope == "session"
        if program.record is None or session is None or not (own or current):
            return {"version": None, "current": False, "state": as_saved(made.state)}
        programs = self._dspy_app.programs(session)  # of one that is for all, the session has its own from now on
        programs.put(program.id, _made_of(program.record, made, meta))
        version = programs.record(program.id).version
        if not current:
            programs.use(program.id, program.record.version)
        return {"version": version, "current": current}


def _made_of(record: Record, of: Made, meta: dict[str, Any]) -> Record:
    made_of = (record.signature, record.module, record.instructions, of.state)
    made = Record(*made_of, tools=record.tools, parameters=record.parameters, memory=record.memory)
    return replace(made, nearest=of.nearest, source="optimized", meta=meta)
