"""Write the clients' reference pages, docs/clients/*-reference.md, from the documentation in their code.

usage: build/venv/bin/python scripts/reference.py [--check]      (--check only compares; exit status 1: they differ)

Python's page is made of what is imported, Node's of the declarations that the compiler writes: TypeDoc wants a compiler
of another kind than the project's.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "clients"
NODE = ROOT / "clients" / "node"
NOTE = "<!-- Written by scripts/reference.py from the code: change that. -->\n"
MODULES = ("dspex", "dspex.errors", "dspex.testing", "dspex.wire")
ENTRIES = {"dspex": "index", "dspex/testing": "testing/index", "dspex/wire": "wire/index"}

# Python


def prose(text: str) -> str:
    """A docstring as Markdown: the entries of its sections become lists."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(text).splitlines():
        if re.fullmatch(r"(Args|Attributes):", line):
            section = True
            lines.append("")
            continue
        section = section and (not line or line.startswith("    "))
        entry = re.match(r"    (\w+): (.*)", line) if section else None
        if entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section and line:
            lines.append("  " + line.strip())
        else:
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def signature(function: Any, *, bound: bool) -> str:
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(…)"
    parameters = list(found.parameters.values())[1 if bound else 0 :]
    text = str(found.replace(parameters=parameters))
    return re.sub(r"""(: |-> )(['"])(.*?)\2(?=[,)=]| =|$)""", r"\1\3", text).removesuffix(" -> None")


def members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if name == "__call__" or not name.startswith("_"):
            yield name, value


def class_page(kind: type) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base.__module__.startswith("dspex")]
    doc = kind.__doc__ or ""
    # What has no section on its arguments is made by the package itself.
    made = signature(kind.__init__, bound=True) if "Args:" in doc else ""  # type: ignore[misc]
    yield f"### `{kind.__name__}{made}`\n"
    yield prose(doc)
    if bases:
        yield f"\nHas all of {', '.join(f'`{base}`' for base in bases)}."
    for name, value in members(kind):
        if isinstance(value, property):
            if value.fget is not None and value.fget.__doc__:
                yield f"\n#### `{name}`\n\n{prose(value.fget.__doc__)}"
        elif inspect.isfunction(value) and value.__doc__:
            called = "" if name == "__call__" else f".{name}"
            yield f"\n#### `{called}{signature(value, bound=True)}`\n\n{prose(value.__doc__)}"


def python_page() -> str:
    parts = [f"# Reference of the Python client\n\n{NOTE}\nHow it is used is told in [the guide](python.md).\n"]
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        names: list[str] = list(getattr(module, "__all__", ()))
        if not names:
            own = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
            names = [n for n in own if not n.startswith("_")]
        parts.append(f"\n## `{module_name}`\n\n{prose(module.__doc__ or '')}\n")
        twins = [name for name in names if name.startswith("Async") and name[5:] in names]
        if twins:
            parts.append(f"\nWith `await`, the same: {', '.join(f'`{name}`' for name in twins)}.\n")
        for name in sorted(set(names) - set(twins)):
            value = getattr(module, name)
            if getattr(value, "__module__", module_name) in set(MODULES) - {module_name}:
                continue  # it is told of there
            if inspect.isclass(value) and value.__doc__:
                parts.append("\n" + "\n".join(class_page(value)) + "\n")
            elif inspect.isfunction(value) and value.__doc__:
                parts.append(f"\n### `{name}{signature(value, bound=False)}`\n\n{prose(value.__doc__)}\n")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


# Node

KINDS = "(?:class|function|const|type|interface)"


def exported(entry: Path) -> Iterator[tuple[str, Path]]:
    """The names that a module exports, and the declarations that they come from."""
    text = entry.read_text()
    for names, source in re.findall(r"export (?:type )?\{([^}]*)\} from \"([^\"]+)\"", text):
        for name in names.split(","):
            if name.strip():
                yield name.replace("type ", "").strip(), (entry.parent / source).with_suffix(".d.ts")
    for source in re.findall(r"export (?:type )?\* from \"([^\"]+)\"", text):
        other = (entry.parent / source).with_suffix(".d.ts")
        for name in re.findall(rf"^export (?:declare )?{KINDS} (\w+)", other.read_text(), re.MULTILINE):
            yield name, other


def declaration(name: str, file: Path) -> tuple[str, str]:
    """Its comment, as prose, and its text, without what is internal."""
    text = file.read_text()
    start = re.search(
        rf"^(?P<doc>/\*\*(?:(?!\*/).)*?\*/\n)?export (?:declare )?(?:abstract )?{KINDS} {name}\b",
        text,
        re.MULTILINE | re.DOTALL,
    )
    if start is None:
        raise LookupError(f"{name} is not declared in {file}")
    doc = comment(start["doc"] or "")
    body = text[start.end("doc") if start["doc"] else start.start() :]
    depth, length = 0, len(body)
    for at, letter in enumerate(body):
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(letter, 0)
        if depth == 0 and (letter == ";" or (letter == "}" and not body.startswith("export type"))):
            length = at + 1
            break
    lines = body[:length]
    lines = re.sub(r"\n +/\*\* @internal \*/\n[^\n]*", "", lines)
    lines = re.sub(r"\n +#private;", "", lines)
    return doc, re.sub(r"^export (declare )?", "", lines)


def comment(text: str) -> str:
    return "\n".join(
        re.sub(r"^\s*(/\*\*|\*/|\*)? ?", "", line) for line in text.replace(" */", "").splitlines()
    ).strip()


def node_page() -> str:
    parts = [f"# Reference of the Node client\n\n{NOTE}\nHow it is used is told in [the guide](node.md).\n"]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--emitDeclarationOnly", "--outDir", folder]
        subprocess.run([NODE / "node_modules/.bin/tsc", "-p", "tsconfig.build.json", *options], cwd=NODE, check=True)
        for module, entry in ENTRIES.items():
            file = Path(folder, f"{entry}.d.ts")
            about = re.match(r"/\*\*.*?\*/", file.read_text(), re.DOTALL)
            parts.append(f"\n## `{module}`\n\n{comment(about[0]) if about else ''}\n")
            for name, source in sorted(set(exported(file))):
                doc, text = declaration(name, source)
                parts.append(f"\n### `{name}`\n\n{doc}\n\n```ts\n{text}\n```\n")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def main() -> int:
    stale = []
    for name, make in (("python", python_page), ("node", node_page)):
        page = PAGES / f"{name}-reference.md"
        text = make()
        if not page.exists() or page.read_text() != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(text)
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"stale: {', '.join(stale)}; run build/venv/bin/python scripts/reference.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
