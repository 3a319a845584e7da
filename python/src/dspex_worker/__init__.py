"""The runtime that serves an application's methods, in a worker of a pool or by itself.

from dspex_worker import App, Session, current_call
"""

from dspex_worker.app import App
from dspex_worker.calls import Call, CallCancelled, current_call
from dspex_worker.session import Session
from dspex_worker.worker import Worker

__all__ = ["App", "Call", "CallCancelled", "Session", "Worker", "current_call"]
