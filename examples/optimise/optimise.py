"""A program before and after it was optimised: which colours does a sentence name? ``optimise.py [OPTIMIZER]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dspex


def main(optimizer: str = "labeled") -> None:
    """Optimise it on half of the sentences, and tell the score on the others, which the optimizer has not seen."""
    lines = Path(__file__).with_name("sentences.jsonl").read_text().splitlines()
    with dspex.connect(wait=10) as client, client.create_session() as session:
        session.create_program("colours", "text -> colours: list[str]")
        session.call("dataset.create", {"name": "sentences"})
        session.call("dataset.append", {"name": "sentences", "rows": [json.loads(line) for line in lines]})
        params = {"program": "colours", "optimizer": optimizer, "trainset": "sentences", "metric": "exact"}
        stream = session.stream("optimize_program", {**params, "holdout": 0.5, "limits": {"seconds": 600}}, timeout=900)
        for item in stream:
            print(item["phase"], item.get("score", ""), item["lm_calls"], "LM calls", file=sys.stderr)
        result = stream.result
        print(f"before {result['baseline']:.2f}, after {result['score']:.2f}")
        diff = session.call("diff_versions", {"program": "colours", "version": 1, "other": result["version"]})
        for predictor in diff["predictors"]:
            print(f"{len(predictor['demos']['added'])} demos; {predictor['instructions']['to'][:60]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
