"""Raising CallCancelled in a thread that runs a call's code, and taking that back."""

from __future__ import annotations

import ctypes
import threading

from dspex_worker.calls import CallCancelled


def interrupt(ident: int) -> None:
    """Raise CallCancelled in a thread, at its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(CallCancelled))


def take_back() -> None:
    """See to it that nothing is raised any more in this thread.

    By having it arrive here. To set nothing in its place leaves CPython 3.11's mark that something is to be raised,
    which every thread looks at from then on, and a traced one, without end, at its next call.
    """
    try:
        interrupt(threading.get_ident())
        while True:
            pass
    except CallCancelled:
        return
