"""The pods of deploy/kubernetes, of the images that `make image-test` built, run as their manifests say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.support.configuration import ROOT
from e2e.support.container import Container
from e2e.support.machine import WAIT, until
from support.openai_server import OpenAIServer, Seen, chat_answer

BUILT = Path(os.environ["DSPEX_IMAGES"])
ANSWERS = {"names": ["Ada"], "places": ["London"], "explanation": ["so"]}
KEY = "sk-of-the-pods-secret"

Object = dict[str, Any]


def answer(seen: Seen) -> str:
    """Values for whichever outputs the prompt asks for."""
    return chat_answer(**{name: value for name, value in ANSWERS.items() if f"`{name}`" in seen.prompt})


class Pod:
    """One pod: its volumes as folders, its containers as processes."""

    def __init__(self, name: str, at: Path, lm: OpenAIServer) -> None:
        self.at = at
        built = subprocess.run(
            [ROOT / "build/tools/kustomize", "build", ROOT / "deploy/kubernetes" / name],
            capture_output=True,
            text=True,
            check=True,
        )
        objects: dict[str, Object] = {one["kind"]: one for one in yaml.safe_load_all(built.stdout)}
        self.spec: Object = objects["Deployment"]["spec"]["template"]["spec"]
        (self.sidecar,) = self.spec["initContainers"]
        (self.app,) = self.spec["containers"]
        self.group = self.spec["securityContext"]["fsGroup"]
        at.chmod(0o755)
        for volume in self.spec["volumes"]:
            folder = at / volume["name"]
            folder.mkdir()
            os.chown(folder, 0, self.group)
            folder.chmod(0o2777)  # as an emptyDir with an fsGroup is
        text = objects["ConfigMap"]["data"]["dspex.toml"]
        (at / "config" / "dspex.toml").write_text(
            text.replace("[models.main]", f'[models.main]\napi_base = "{lm.base}"')
        )
        key = at / "secrets" / "openai-api-key"
        key.write_text(KEY)
        os.chown(key, 0, self.group)
        key.chmod(0o440)

    def run(self, spec: Object) -> Container:
        """Run a container of the pod."""
        image = spec["image"].removeprefix("dspex-example-").partition(":")[0]
        config: Object = json.loads((BUILT / f"{image}.json").read_text())["Docker"]["config"]
        user = spec["securityContext"]
        at = self.at / f"container-{spec['name']}"
        at.mkdir()
        return Container(
            [*(config.get("Entrypoint") or []), *(spec.get("args") or config["Cmd"])],
            at=at,
            root=(BUILT / image).resolve(),
            uid=user["runAsUser"],
            gid=user["runAsGroup"],
            groups=str(self.group),
            environment=dict(one.split("=", 1) for one in config["Env"])
            | {one["name"]: one["value"] for one in spec["env"]},
            workdir=config["WorkingDir"],
            folders={},
            volumes={
                mount["mountPath"]: f"{self.at / mount['name']}:{'ro' if mount.get('readOnly') else 'rw'}"
                for mount in spec["volumeMounts"]
            },
        )


@pytest.fixture(params=["express", "fastapi"])
def pod(request: pytest.FixtureRequest) -> Iterator[tuple[Pod, OpenAIServer]]:
    at = Path(tempfile.mkdtemp(prefix="dspex-"))
    try:
        with OpenAIServer(answer=answer) as lm:
            yield Pod(request.param, at, lm), lm
    finally:
        shutil.rmtree(at)


def ask(path: str, body: object = None) -> Any:
    """Ask the application; None where it does not listen, or is not ready."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path}: {error.code} {error.read()!r}") from error
    except OSError:
        return None


def ended(container: Container) -> int:
    """End a container as the kubelet does."""
    os.kill(container.init, signal.SIGTERM)
    return container.process.wait(WAIT)


def test_a_pod(pod: tuple[Pod, OpenAIServer]) -> None:
    """Started up, probed, asked, and ended, in the kubelet's order."""
    one, lm = pod
    with ExitStack() as stack:
        sidecar = stack.enter_context(one.run(one.sidecar))
        stack.callback(lambda: print(sidecar.log[-5000:]))
        startup = one.sidecar["startupProbe"]["exec"]["command"]
        until(lambda: sidecar.init and "worker ready" in sidecar.log, "a worker is ready", 120)
        until(lambda: sidecar.run(*startup).returncode == 0, "it has started up", 60)
        app = stack.enter_context(one.run(one.app))
        stack.callback(lambda: print(app.log[-5000:]))
        until(lambda: ask(one.app["readinessProbe"]["httpGet"]["path"]), "the application is ready", 60)
        for probe in ("readinessProbe", "livenessProbe"):
            done = sidecar.run(*one.sidecar[probe]["exec"]["command"])
            assert done.returncode == 0, done.stderr
        assert ask("/digest", {"text": "Ada lived in London."}) == ANSWERS
        assert {seen.key for seen in lm.requests} == {KEY}
        hook = app.run(*one.app["lifecycle"]["preStop"]["exec"]["command"])
        assert hook.returncode == 0, hook.stderr
        assert ended(app) in (0, 128 + signal.SIGTERM)
        assert ended(sidecar) == 0
        assert not re.search(r'"level":"(WARN|ERROR)"(?!.*draining)', sidecar.log), sidecar.log
