"""Says something, and then does at its import what DSPEX_TEST_IMPORT says."""

import os
import sys
import time

from dspex_worker import App

print("about to be imported")
print("on standard error, too", file=sys.stderr)
os.write(2, b"and past Python's buffers\n")

match os.environ.get("DSPEX_TEST_IMPORT", ""):
    case "raise":
        raise RuntimeError("the model file is not there")
    case "exit":
        sys.exit(9)
    case "end":
        os._exit(9)
    case "hang":
        time.sleep(3600)

app = App(use_dspy=False)
not_an_app = 5


@app.method(inline=True)
def echo(value: int) -> int:
    return value
