"""The clients as files that are installed into another project: docs/clients/install.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from e2e.support.configuration import ROOT

NODE = ROOT / "clients" / "node"
USE = """import dspex, dspex.testing
with dspex.testing.FakeSidecar({"add": lambda params, _: params["a"] + 1}) as fake, dspex.connect(fake.path) as client:
    print(client.call("add", {"a": 1}), dspex.__file__)
"""
USE_IN_NODE = """import { connect } from "dspex";
import { FakeSidecar } from "dspex/testing";
const fake = await FakeSidecar.start({ methods: { add: ({ a }) => a + 1 } });
const client = await connect({ socket: fake.path });
console.log(await client.call("add", { a: 1 }));
await client.close();
await fake.close();
"""


def run(*command: str | Path, folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT / "clients/python", folder=tmp_path)
    (wheel,) = tmp_path.glob("dspex-*-py3-none-any.whl")
    run(*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel, folder=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{USE}"
    result, file = run(sys.executable, "-c", code, folder=tmp_path).split()
    assert result == "2"
    assert Path(file).is_relative_to(tmp_path)
    assert (tmp_path / "site" / "dspex" / "py.typed").exists()


def test_a_node_package(tmp_path: Path) -> None:
    run(NODE / "node_modules/.bin/tsc", "-p", "tsconfig.build.json", folder=NODE)
    run("npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", tmp_path, folder=NODE)
    (package,) = tmp_path.glob("dspex-*.tgz")
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}))
    run("npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", f"./{package.name}", folder=tmp_path)
    (tmp_path / "use.js").write_text(USE_IN_NODE)
    assert run("node", "use.js", folder=tmp_path).split() == ["2"]
    assert "usage" in run("npx", "--offline", "dspex", "--help", folder=tmp_path)
