"""Run each Go fuzz test for a while, one after the other.

usage: python3 scripts/fuzz.py 10s
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ_TEST = re.compile(r"^func (Fuzz\w+)\(", re.MULTILINE)


def main(duration: str) -> None:
    for file in sorted(ROOT.rglob("*_test.go")):
        folder = f"./{file.parent.relative_to(ROOT)}"
        for name in FUZZ_TEST.findall(file.read_text()):
            print(f"fuzz  {folder} {name}", flush=True)
            command = [
                "go",
                "test",
                "-run=^$",
                f"-fuzz=^{name}$",
                f"-fuzztime={duration}",
                "-fuzzminimizetime=10x",
                folder,
            ]
            if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
                sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
