"""What holds for all tests of this tree."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing: a busy machine stops any of them for a while.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
