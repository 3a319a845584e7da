"""Peers whose workers have DSPy loaded, for what a start and a worker's memory cost, and for calls of an LM."""

from __future__ import annotations

from peers import Peer

CONFIG = """\
[listen]
socket = "{folder}/s"
[pools.default]
app = "dspy_app:app"
python = "{python}"
size = {workers}
max_overflow = 0
concurrency = 512
checkout_timeout = "60s"
pass_env = ["BENCH_LM"]
env = {{ PYTHONPATH = "{bench}" }}
"""

OURS = Peer(
    "dspex",
    "dspex",
    ("{sidecar} serve --config {folder}/dspex.toml",),
    "{folder}/s",
    files=(("dspex.toml", CONFIG),),
)
PRELOAD = Peer(
    "gunicorn --preload",
    "http",
    (
        "{peers_python} -m gunicorn --preload --workers {workers} --bind unix:{folder}/s --log-level error "
        "--no-control-socket peers.dspy_web:wsgi",
    ),
    "{folder}/s",
)
UVICORN = Peer(
    "uvicorn",
    "http",
    (
        "{peers_python} -m uvicorn --workers {workers} --port {port} --no-access-log --log-level error "
        "peers.dspy_web:asgi",
    ),
)
MOSEC = Peer("Mosec", "http", ("{peers_python} -m peers.dspy_mosec {port} {folder} {workers}",), path="/inference")
PLAIN = Peer("plain DSPy with asyncio", "own", ("{peers_python} -m peers.dspy_plain",))
MODEL = Peer("the language model", "http", ("{load} -serve lm -address 127.0.0.1:{port}",), path="/v1/chat/completions")
