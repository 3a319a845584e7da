"""Where the sidecar's socket is, and what went wrong with it in words."""

from __future__ import annotations

import errno
import os
import socket

from .errors import ConnectionLost

_LONGEST = 107  # bytes of a Unix socket's path
_BUFFER = 2 << 20  # a large frame then goes over in one or two writes


def socket_path(path: str | os.PathLike[str] | None = None) -> str:
    """`path`, else DSPEX_SOCKET, else `$XDG_RUNTIME_DIR/dspex/dspex.sock`, else `/run/dspex/dspex.sock`."""
    if path is not None:
        return os.fspath(path)
    if named := os.environ.get("DSPEX_SOCKET"):
        return named
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "dspex", "dspex.sock")


def new_socket() -> socket.socket:
    """A Unix stream socket that takes large frames well."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return sock


def no_sidecar(path: str, error: OSError) -> ConnectionLost:
    """The error of a connection that could not be made."""
    advice = "start one with `dspex-sidecar serve`, or name its socket in DSPEX_SOCKET"
    if len(os.fsencode(path)) > _LONGEST:
        reason = f"the path has {len(os.fsencode(path))} bytes, {_LONGEST} are possible"
        advice = "choose a shorter one"
    elif not path:
        reason = "the path is empty"
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason, advice = "permission denied", "see `mode` and `allow_uids` under [listen] in its configuration"
    elif error.errno == errno.ENOENT:
        reason = "there is no such socket"
    elif error.errno == errno.ECONNREFUSED:
        reason = "nobody listens there"
    elif isinstance(error, TimeoutError):
        reason, advice = "it did not take the connection in time", "see its log"
    else:
        reason = error.strerror or str(error)
    return ConnectionLost(f"no sidecar at {path}: {reason}; {advice}", details={"path": path})


def no_greeting(path: str, seconds: float) -> ConnectionLost:
    """The error of a connection that was made, and on which `hello` was not answered."""
    message = f"no sidecar at {path}: it did not answer the handshake within {seconds:.3g} s; see its log"
    return ConnectionLost(message, details={"path": path})


def lost(error: OSError) -> ConnectionLost:
    """The error of a connection that broke."""
    return ConnectionLost(f"the connection to the sidecar broke: {error.strerror or error}")
