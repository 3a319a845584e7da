"""The Unix socket that stand-alone mode listens on: its file, its folder, and who is at the other end."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct

MAX_PATH = 107  # bytes that a Unix socket's address holds

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ListenError(Exception):
    """The socket cannot be had; the message says why and what to do."""


def listen(path: str, mode: int) -> socket.socket:
    """Make the socket, with its mode from the first moment. A stale file is taken over, a live socket is not."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise ListenError(
            f"{path}: the path has {len(os.fsencode(path))} bytes, a Unix socket's has at most {MAX_PATH}"
        )
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, 0o750, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ListenError(f"{path}: {error}") from None
    try:
        if os.fstat(lock).st_mode & stat.S_IWOTH:
            raise ListenError(
                f"{path}: everybody may write to {folder}, and so replace the socket: use a folder of yours"
            )
        fcntl.flock(lock, fcntl.LOCK_EX)  # two servers that start at once must not both find the file stale
        _remove_stale(path)
        return _bound(path, mode)
    except OSError as error:
        raise ListenError(f"{path}: {error}") from None
    finally:
        os.close(lock)


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells a socket's file from another one at the same path."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def unlink(path: str, made: tuple[int, int] | None) -> None:
    """Remove the socket's file if it is still the one that was made."""
    if made is not None and identity(path) == made:
        os.unlink(path)


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _bound(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(1024)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"{path}: there is a file of that name which is no socket: remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise ListenError(f"{path}: there is a socket that cannot be tried: {error}") from None
    raise ListenError(f"{path}: another process listens there")
