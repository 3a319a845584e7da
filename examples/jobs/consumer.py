"""A queue's consumer. Jobs are rows of a table; any number of consumers take them: `consumer.py QUEUE.db`.

A consumer that dies leaves its job taken, and another takes it again after a while. The job's key has the sidecar run
it once all the same: who asks again is given the same answer.
"""

from __future__ import annotations

import sqlite3
import sys
import time

import dspex

LEASE = 60.0  # seconds after which a job that was taken, and not done, is taken again
TABLE = """CREATE TABLE IF NOT EXISTS jobs
           (id INTEGER PRIMARY KEY, text TEXT NOT NULL, taken REAL NOT NULL DEFAULT 0, result TEXT)"""
TAKE = """UPDATE jobs SET taken = ?
          WHERE id = (SELECT id FROM jobs WHERE result IS NULL AND taken < ? ORDER BY id LIMIT 1)
          RETURNING id, text"""


def main(path: str) -> None:
    """Do all jobs that there are."""
    queue = sqlite3.connect(path, isolation_level=None, timeout=30)
    queue.execute(TABLE)
    with dspex.connect(wait=10, timeout=LEASE / 2) as client:
        while True:
            now = time.time()
            job = queue.execute(TAKE, (now, now - LEASE)).fetchone()
            if job is None:
                return
            id, text = job
            try:
                counted = client.call("count_words", {"text": text}, idempotency_key=f"{path}#{id}", idempotent=True)
            except dspex.DspexError as error:
                if error.retryable:
                    queue.execute("UPDATE jobs SET taken = 0 WHERE id = ?", (id,))
                    time.sleep(error.details.get("retry_after_ms", 1000) / 1000)
                    continue
                result = f"failed: {error}"
            else:
                result = f"{counted['words']} words"
            queue.execute("UPDATE jobs SET result = ? WHERE id = ?", (result, id))
            print(f"job {id}: {result}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
