"""The DSPy application: programs from signatures, their LMs, their execution, as methods of a worker.

Importing this imports dspy; `dspex_worker` itself does not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dspex_worker.dspy_app.methods import DspyApp
from dspex_worker.dspy_app.warm import keep_to_this_process, warm

if TYPE_CHECKING:
    from dspex_worker.app import App

__all__ = ["install"]

# What LiteLLM, which makes the requests that DSPy's own client cannot make, keeps for itself.
_LITELLM = ("LoggingWorker._worker_loop", "LoggingWorker._process_log_task", "Logging.async_success_handler")


def install(app: App) -> DspyApp:
    """Register the DSPy application's methods with ``app``, build its programs, and warm DSPy up.

    No thread, socket or LM is left behind, so that a process may be forked from this one.

    Raises:
        Exception: what a registered program's class or factory raises; ValueError where a method's name is taken.
    """
    keep_to_this_process()
    made = DspyApp(app)
    made.register(app)
    for task in _LITELLM:
        app.keep_task(task)
    asyncio.run(warm())
    return made
