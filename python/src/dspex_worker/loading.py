"""From ``module:attribute`` to an application that is ready to serve."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from dspex.errors import ProgramError

from dspex_worker.app import App
from dspex_worker.calls import clean, message_of, type_name

if TYPE_CHECKING:
    from dspex_worker.dspy_app.methods import DspyApp

_LAST_LINES = 20  # of the traceback, in the error that says why an application cannot be loaded


class LoadError(Exception):
    """The application cannot be loaded; the message says why and what to do."""


def load(target: str | None) -> App:
    """Import ``module:attribute``, install the DSPy application where it is wanted, and warm it up.

    What is done here may be shared by the workers that are forked afterwards; ``App.init_worker`` is each one's own.
    ``target`` None means an empty application, which then serves the DSPy one. Modules are found from the current
    folder first. Raises LoadError for what is wrong with the target, and whatever the application's modules raise.
    """
    app = _found(target)
    dspy_app = _dspy_app(app)
    if dspy_app is not None:
        dspy_app.install(app)
    elif app.programs:
        raise LoadError(f"the application registers programs ({', '.join(app.programs)}), which need dspy: install it")
    return app


def load_with_dspy(target: str | None) -> tuple[App, DspyApp]:
    """The same for who uses the DSPy application itself."""
    app = _found(target)
    if (dspy_app := _dspy_app(app)) is None:
        raise LoadError("dspy is not installed in this Python environment")
    return app, dspy_app.install(app)


def close_lms() -> None:
    """Close the connections of every LM there is: processes that are forked from here must not share them."""
    if (dspy := sys.modules.get("dspy")) is None:
        return
    for found in gc.get_objects():
        if issubclass(type(found), dspy.LM):
            found.close()


def settle_memory() -> None:
    """Leave all that was loaded out of the garbage collector's later rounds."""
    gc.collect()
    gc.freeze()


def load_failure(error: BaseException) -> ProgramError:
    """Return the answer to hello that says why the worker cannot get ready: the end of the traceback included."""
    if isinstance(error, LoadError):
        return ProgramError(str(error), details={"type": "LoadError"})
    lines = clean("".join(traceback.format_exception(error))).splitlines()[-_LAST_LINES:]
    return ProgramError(
        f"the application cannot be loaded: {type_name(error)}: {message_of(error)}",
        details={"type": type_name(error), "traceback": "\n".join(lines)},
    )


def _found(target: str | None) -> App:
    if sys.path[:1] not in ([os.getcwd()], [""]):
        sys.path.insert(0, os.getcwd())
    app = App(use_dspy=True) if target is None else _imported(target)
    app.target, app.folder = target, os.getcwd()
    return app


def _imported(target: str) -> App:
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise LoadError(f"{target!r} does not name an application: write it as module:attribute")
    found: Any = importlib.import_module(module_name)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise LoadError(f"{target!r}: {found!r} has no attribute {name!r}") from None
    if not isinstance(found, App):
        raise LoadError(f"{target!r} is a {type(found).__name__}, not a dspex_worker.App")
    return found


def _dspy_app(app: App) -> Any:
    """Return the module of the DSPy application, or None where it is not wanted or cannot be had."""
    if app.use_dspy is False:
        return None
    if importlib.util.find_spec("dspy") is not None:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")  # else importing it fetches a price map
        return importlib.import_module("dspex_worker.dspy_app")
    if app.use_dspy:
        raise LoadError("the DSPy application was asked for, but dspy is not installed in this Python environment")
    return None
