"""A fake sidecar for the tests of applications, on a real Unix socket, without workers.

with FakeSidecar(programs={"qa": lambda inputs, call: {"answer": inputs["question"] + "!"}}) as fake:
    client = dspex.connect(fake.path)
"""

from .fake import FakeCall, FakeMethod, FakeSidecar, Seen
from .peer import Peer

__all__ = ["FakeCall", "FakeMethod", "FakeSidecar", "Peer", "Seen"]
