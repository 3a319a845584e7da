"""Put the results into docs/performance.md, between its marks."""

from __future__ import annotations

from measuring import place
from measuring.result import Result
from measuring.rounds import Samples

from report import table

PAGE = place.ROOT / "docs" / "performance.md"


def publish(results: list[Result], samples: Samples, described: dict[str, object]) -> None:
    replace("goals", goals([one for one in results if one.goal is not None]))
    replace("beside", goals([one for one in results if one.goal is None]))
    replace("samples", absolute(samples))
    replace("machine", machine(described))


def replace(mark: str, text: str) -> None:
    """Replace what stands between the mark's two lines."""
    begin, end = f"<!-- {mark}: written by bench/run.py -->", f"<!-- end of {mark} -->"
    page = PAGE.read_text()
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def goals(results: list[Result]) -> str:
    lines = [
        "| | ours | theirs | ratio | least–most | goal | met |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in results:
        row = one.flat()
        theirs, ratio = ("" if row[key] is None else table.number(row[key]) for key in ("theirs", "ratio"))
        spread = f"{table.number(row['min'])}–{table.number(row['max'])}"
        ours = f"{table.number(row['ours'])} {one.unit.replace('1/s', '/s')}"
        lines.append(
            f"| {one.name} | {ours} | {theirs} | {ratio} | {spread} | {table.goal(one)} | {table.verdict(one)} |"
        )
    return "\n".join(lines)


def absolute(samples: Samples) -> str:
    lines = [
        "| work | peer | calls/s | median µs | p99 µs | CPU µs a call |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for one in samples.medians():
        figures = (table.number(float(str(one[key]))) for key in ("per_second", "p50_us", "p99_us", "cpu_us"))
        lines.append(f"| {one['work']} | {one['peer']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def machine(described: dict[str, object]) -> str:
    """One line: what it was measured on."""
    versions = ", ".join(f"{name} {value}" for name, value in described.items() if not name.startswith(("load", "sec")))
    load = f"{described['load_before']:.1f} before and {described['load_after']:.1f} after"
    return f"{versions}. Load average {load}; the run took {described['seconds']} s."
