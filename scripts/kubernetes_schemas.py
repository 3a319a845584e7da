"""Cut what the tests need out of the Kubernetes API's JSON schemas, and print it.

usage: python scripts/kubernetes_schemas.py FOLDER > tests/e2e/newcomer/kubernetes-schemas.json

FOLDER is a version's strict schemas as the package kubernetes-validate ships them (…/vX.Y.Z-local-strict),
made from the API's own OpenAPI description (Apache License 2.0). Descriptions are left out. Newer API versions accept
what this one does; take the oldest that is to work.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

KINDS = {"Deployment": "deployment-apps-v1", "Service": "service-v1", "ConfigMap": "configmap-v1"}
REFERENCE = re.compile(r"#/\$defs/(.+)$")


def plain(schema: Any) -> Any:
    """Return a schema without descriptions and with references into its own document."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        found = REFERENCE.search(schema) if isinstance(schema, str) else None
        return f"#/$defs/{found[1]}" if found else schema
    return {
        key: plain(value)
        for key, value in schema.items()
        if not (key in ("description", "$schema") and isinstance(value, str)) and not key.startswith("x-kubernetes")
    }


def main(folder: Path) -> None:
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    kinds = {kind: plain(json.loads((folder / f"{file}.json").read_text())) for kind, file in KINDS.items()}
    wanted = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(kinds)))
    kept: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        kept[name] = plain(definitions[name])
        wanted |= set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(kept[name]))) - kept.keys()
    text = json.dumps({"from": folder.name, "kinds": kinds, "$defs": kept}, sort_keys=True, separators=(",", ":"))
    print(text.replace('},"', '},\n"'))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
