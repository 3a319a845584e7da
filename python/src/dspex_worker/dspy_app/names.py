"""Which names of fields DSPy can carry: the rest is dropped, mixed up with DSPy's own parameters, or unparsable."""

from __future__ import annotations

import unicodedata

import dspy

MAX_LENGTH = 64

# Parameters of DSPy's own call chain. An input of such a name would be taken for the parameter: a client could put
# an LM, options of its request or another signature in place of the operator's.
_CALL_PARAMETERS = frozenset(
    {"self", "instance", "lm", "config", "demos", "signature", "new_signature", "prediction", "completions"}
)


def problem_of_name(name: str, *, output: bool) -> str | None:
    """Say why ``name`` cannot be the name of an input (or ``output``) field; None where it can."""
    if not name.isidentifier():
        return f"{name!r} is not a name: letters, digits and _, not beginning with a digit"
    if len(name) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    if unicodedata.normalize("NFKC", name) != name:
        return f"{name!r} is not in its normal form (Unicode NFKC); write {unicodedata.normalize('NFKC', name)!r}"
    if name.startswith("_"):
        return f"{name!r} begins with '_'"
    if not output and name in _CALL_PARAMETERS:
        return f"{name!r} is a parameter of DSPy's own calls; choose another name"
    if hasattr(dspy.Signature, name):
        return f"{name!r} is an attribute of dspy.Signature; choose another name"
    return None
