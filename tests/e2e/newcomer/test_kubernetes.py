"""deploy/kubernetes, as kustomize builds it: valid by the API's schemas, and in itself."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.support.configuration import ROOT, SIDECAR

KUSTOMIZE = ROOT / "build" / "tools" / "kustomize"
FOLDER = ROOT / "deploy" / "kubernetes"
SCHEMAS = json.loads((Path(__file__).parent / "kubernetes-schemas.json").read_text())
SOCKET = "/run/dspex/private/dspex.sock"

Object = dict[str, Any]


def built(name: str) -> list[Object]:
    done = subprocess.run([KUSTOMIZE, "build", FOLDER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def problems(of: Object) -> list[str]:
    schema = {**SCHEMAS["kinds"][of["kind"]], "$defs": SCHEMAS["$defs"]}
    found = jsonschema.Draft202012Validator(schema).iter_errors(of)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


@pytest.fixture(scope="module", params=["base", "express", "fastapi"])
def objects(request: pytest.FixtureRequest) -> dict[str, Object]:
    """What one of the folders gives, by kind."""
    return {one["kind"]: one for one in built(request.param)}


@pytest.fixture
def pod(objects: dict[str, Object]) -> Object:
    spec: Object = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def sidecar(pod: Object) -> Object:
    (one,) = pod["initContainers"]
    return dict(one)


@pytest.fixture
def settings(objects: dict[str, Object]) -> Object:
    return tomllib.loads(objects["ConfigMap"]["data"]["dspex.toml"])


def test_valid(objects: dict[str, Object]) -> None:
    assert set(objects) == {"ConfigMap", "Deployment", "Service"}
    assert {kind: problems(one) for kind, one in objects.items()} == {kind: [] for kind in objects}


def test_what_is_wrong_is_found(objects: dict[str, Object], sidecar: Object) -> None:
    """The schemas are strict: a key in the wrong place is an error."""
    wrong = json.loads(json.dumps(objects["Deployment"]))
    spec = wrong["spec"]["template"]["spec"]
    spec["initContainers"][0]["restartPolcy"] = "Always"
    spec["terminationGracePeriodSeconds"] = "45"
    assert len(problems(wrong)) == 2


def test_the_configuration(settings: Object, sidecar: Object, tmp_path: Path, objects: dict[str, Object]) -> None:
    """It is valid as the sidecar is told to read it, and says what the pod says."""
    file = tmp_path / "dspex.toml"
    text = objects["ConfigMap"]["data"]["dspex.toml"]
    (tmp_path / "key").write_text("k")
    file.write_text(text.replace("/etc/dspex-secrets/openai-api-key", str(tmp_path / "key")))
    profile = sidecar["args"][sidecar["args"].index("--profile") + 1]
    command = [SIDECAR, "check", "--config", file, "--profile", profile]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cpu*2" in done.stdout


def test_the_socket_and_who_may_use_it(pod: Object, sidecar: Object, settings: Object) -> None:
    (app,) = pod["containers"]
    assert settings["listen"]["socket"] == SOCKET
    for container in (app, sidecar):
        assert {"name": "DSPEX_SOCKET", "value": SOCKET} in container["env"]
        mounted = {one["name"]: one for one in container["volumeMounts"]}
        # A folder below the volume: the volume itself may be written by all of the pod.
        assert Path(mounted["run"]["mountPath"]) == Path(SOCKET).parent.parent
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert settings["listen"]["allow_uids"] == [app["securityContext"]["runAsUser"]]
    assert pod["securityContext"]["fsGroup"] > 0
    assert {one["name"] for one in pod["volumes"]} == {
        mount["name"] for container in (app, sidecar) for mount in container["volumeMounts"]
    }


def test_a_native_sidecar_that_ends_in_time(pod: Object, sidecar: Object, settings: Object) -> None:
    assert sidecar["restartPolicy"] == "Always"
    drain = int(settings["pools"]["default"]["shutdown_timeout"].removesuffix("s"))
    assert (drain, pod["terminationGracePeriodSeconds"]) == (30, 45)
    (app,) = pod["containers"]
    program, seconds = app["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert drain + int(seconds) < pod["terminationGracePeriodSeconds"] - 5, "the application has time for itself"


def test_a_change_of_the_configuration_arrives(pod: Object, sidecar: Object, objects: dict[str, Object]) -> None:
    (volume,) = (one for one in pod["volumes"] if one["name"] == "config")
    name = objects["ConfigMap"]["metadata"]["name"]
    assert volume["configMap"] == {"name": name}
    assert name.endswith("dspex"), "a hash in the name would replace the pods"
    (mount,) = (one for one in sidecar["volumeMounts"] if one["name"] == "config")
    assert "subPath" not in mount
    assert sidecar["args"][:3] == ["serve", "--config", f"{mount['mountPath']}/dspex.toml"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes(sidecar: Object, probe: str) -> None:
    """Each is a command that there is, and gets more time than the command takes at most."""
    program, *arguments = sidecar[probe]["exec"]["command"]
    assert program == "dspex-sidecar"
    command = [SIDECAR, *arguments, "--socket", "/nowhere/s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert "there is no such socket" in done.stderr
    assert sidecar[probe]["timeoutSeconds"] > 1
    assert arguments[1] == {"s": "--startup", "r": "--ready", "l": "--live"}[probe[0]]
