"""What the sidecar is measured beside: how each peer is started and spoken to. All have two workers and one handler.

They are installed in build/bench-venv, pinned by requirements/bench.txt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A server. Its commands run in bench/; what is in braces is replaced by a running peer's own.

    Attributes:
        protocol: what bench/load speaks to it; ``own``: the command drives itself, and is run anew each time.
        address: where it listens; ``{folder}`` is its own, ``{port}`` a free one.
        path: of HTTP and gRPC requests.
        files: what is made in its folder before it starts; ``name|`` is a pipe.
    """

    name: str
    protocol: str
    commands: tuple[str, ...]
    address: str = "127.0.0.1:{port}"
    path: str = "/"
    files: tuple[tuple[str, str], ...] = ()


CONFIG = """\
[listen]
socket = "{folder}/s"
max_connections = 12000
max_frame = "20MiB"
[sessions]
max = 200000
[pools.default]
app = "app:app"
python = "{python}"
size = {workers}
max_overflow = 0
queue_limit = 20000
checkout_timeout = "60s"
env = {{ PYTHONPATH = "{bench}" }}
"""

OURS = Peer(
    "dspex",
    "dspex",
    ("{sidecar} serve --config {folder}/dspex.toml",),
    "{folder}/s",
    files=(("dspex.toml", CONFIG),),
)
ECHO = Peer("Unix-socket echo in Go", "dspex", ("{load} -serve echo -address {folder}/s",), "{folder}/s")
DIRECT = Peer(
    "the worker called directly",
    "dspex",
    tuple(f"{{python}} -m dspex_worker app:app --socket {{folder}}/{n}" for n in (1, 2)),
    "{folder}/1,{folder}/2",
)
UVICORN = "{peers_python} -m uvicorn --workers 2 --port {port} --no-access-log --log-level error"
# It closes the connection after each answer: over TCP that would be a measurement of ports that wait to be free again.
GUNICORN = "{peers_python} -m gunicorn --workers 2 --bind unix:{folder}/s --log-level error --no-control-socket"
FASTAPI = Peer("FastAPI on uvicorn", "http", (f"{UVICORN} peers.fastapi_app:app",))
ASGI = Peer("bare ASGI on uvicorn", "http", (f"{UVICORN} peers.asgi_app:app",))
GRANIAN = Peer(
    "bare ASGI on Granian",
    "http",
    ("{peers_python} -m granian --interface asgi --workers 2 --port {port} --log-level error peers.asgi_app:app",),
)
PRELOAD = Peer("gunicorn --preload", "http", (f"{GUNICORN} --preload peers.wsgi_app:app",), "{folder}/s")
DIRTY = Peer(
    "gunicorn, dirty arbiters",
    "http",
    (f"{GUNICORN} --dirty-app peers.wsgi_app:Handler --dirty-workers 2 peers.wsgi_app:dirty_app",),
    "{folder}/s",
)
MOSEC = Peer(
    "Mosec",
    "http",
    ("{peers_python} -m peers.mosec_app --port {port} --path {folder}/ipc --log-level error --timeout 30000",),
    path="/inference",
)
LITSERVE = Peer("LitServe", "http", ("{peers_python} -m peers.litserve_app {port}",), path="/predict")
GRPC = Peer("gRPC for Python", "grpc", ("{peers_python} -m peers.grpc_app {port}",), path="/bench.Bench/Call")
PIPES = Peer(
    "JSON over pipes",
    "pipes",
    tuple(f"{{peers_python}} -m peers.json_pipes {{folder}}/in{n} {{folder}}/out{n}" for n in (1, 2)),
    "{folder}/in1:{folder}/out1,{folder}/in2:{folder}/out2",
    files=tuple((f"{side}{n}|", "") for side in ("in", "out") for n in (1, 2)),
)
PROCESS_POOL = Peer("ProcessPoolExecutor", "own", ("{peers_python} -m peers.process_pool",))

PEERS = (ECHO, DIRECT, MOSEC, LITSERVE, FASTAPI, ASGI, GRANIAN, PRELOAD, DIRTY, GRPC, PROCESS_POOL, PIPES)
