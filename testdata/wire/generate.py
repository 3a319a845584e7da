"""Writes the wire vectors beside it. All expectations are stated by hand, in cases/; see README.md."""

import json
import pathlib
import sys

from cases import content, envelopes, frames, framing, meta, structure, values

HERE = pathlib.Path(__file__).parent


def main() -> int:
    files = {
        "frames": ("Sound frames of each kind, and all widths of an id", frames.vectors()),
        "values": ("Sound values: all forms and their boundaries", values.vectors()),
        "structure": ("Frames whose structure is broken", structure.vectors()),
        "envelopes": ("Frames whose head cannot be read, and unknown kinds", envelopes.vectors()),
        "content": ("Frames with values that break the rules on content", content.vectors()),
        "meta": ("The meta of a request", meta.vectors()),
        "framing": ("Streams of frames", framing.vectors()),
    }
    changed = []
    for name, (about, vectors) in files.items():
        names = [v["name"] for v in vectors]
        assert len(set(names)) == len(names), f"{name}: a name twice: {sorted(n for n in names if names.count(n) > 1)}"
        lines = ",\n".join("  " + json.dumps(v, separators=(", ", ": ")) for v in vectors)
        content_ = f'{{"about": {json.dumps(about)}, "vectors": [\n{lines}\n]}}\n'
        path = HERE / f"{name}.json"
        if not path.exists() or path.read_text() != content_:
            changed.append(name)
            if "--check" not in sys.argv:
                path.write_text(content_)
        sys.stdout.write(f"{name}.json: {len(vectors)} vectors{' (changed)' if name in changed else ''}\n")
    return 1 if changed and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
