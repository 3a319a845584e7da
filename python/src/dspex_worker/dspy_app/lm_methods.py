"""Methods about models: what was asked of them and answered, and embedders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dspex_worker.dspy_app.errors import invalid_param
from dspex_worker.dspy_app.execute import Executor
from dspex_worker.embedders import embed_method
from dspex_worker.session import Session, copy_of

if TYPE_CHECKING:
    from dspex_worker.app import App


class LmMethods:
    """Its methods' docstrings are what ``sidecar.methods`` shows."""

    def __init__(self, executor: Callable[[], Executor]) -> None:
        self._executor = executor

    def register(self, app: App) -> None:
        """Add them to the application."""
        app.method(name="inspect_history", read_only=True, retry="safe", inline=True)(self.inspect_history)
        if "embed" not in app.methods:  # an application may have one of its own
            app.method(name="embed", read_only=True, retry="safe")(embed_method(app.embedders))

    def inspect_history(self, session: Session, n: int = 10) -> dict[str, Any]:
        """Return this session's last exchanges with LMs, the oldest first, as far as its worker keeps them."""
        if not 1 <= n <= 1000:
            raise invalid_param("n", "must be from 1 to 1000")
        history, kept = copy_of(session).history, self._executor().history
        if history is None or not kept:
            return {"entries": [], "dropped": 0, "kept_bytes": kept}
        return {"entries": history.last(n), "dropped": history.dropped, "kept_bytes": kept}
