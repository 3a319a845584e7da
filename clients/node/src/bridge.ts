// A stand-alone worker that a program starts for itself: one process, no pool.

import { type ChildProcessByStdio, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { DspexError } from "./errors.js";

const LOOK = 10; // milliseconds between looks whether it listens

export type BridgeOptions = {
  /** What it serves (`module:attribute`); absent: the DSPy application alone. */
  app?: string | undefined;
  /** Its dspex.toml. */
  config?: string | undefined;
  /** Its interpreter, in whose environment `dspex-worker` is installed; absent: `python3`. */
  python?: string | undefined;
};

/** `python -m dspex_worker` on a socket of its own. It ends with the process that started it, however that ends. */
export class Bridge {
  readonly path: string;
  readonly #folder = mkdtempSync(join(tmpdir(), "dspex-"));
  readonly #process: ChildProcessByStdio<Writable, null, null>;
  readonly #ended: Promise<void>;
  /** What it ended of; undefined while it runs. */
  ending: string | undefined;

  constructor({ app, config, python = "python3" }: BridgeOptions) {
    this.path = join(this.#folder, "s");
    const options = [...(config === undefined ? [] : ["--config", config]), ...(app === undefined ? [] : [app])];
    const args = ["-m", "dspex_worker", "--end-with-stdin", "--socket", this.path, ...options];
    this.#process = spawn(python, args, { stdio: ["pipe", process.stderr, process.stderr] });
    this.#process.stdin.on("error", () => {}); // a worker that has ended is noticed by its exit
    this.#process.unref();
    (this.#process.stdin as Writable & { unref?(): void }).unref?.();
    const clear = (): void => rmSync(this.#folder, { recursive: true, force: true });
    process.once("exit", clear);
    this.#ended = new Promise((resolve) => {
      const end = (reason: string): void => {
        this.ending ??= reason;
        process.off("exit", clear);
        clear();
        resolve();
      };
      this.#process.once("error", (error) => end(`it cannot be started: ${error.message}`));
      this.#process.once("exit", (code, signal) => end(`it ended with ${signal ?? `exit code ${code}`}`));
    });
  }

  /** Until it listens. Throws DspexError where it has ended. */
  async started(): Promise<void> {
    while (this.ending === undefined && !existsSync(this.path)) await sleep(LOOK);
    if (this.ending !== undefined) throw this.lost();
  }

  lost(cause?: unknown): DspexError {
    return new DspexError("connection_lost", `the stand-alone worker is gone: ${this.ending}; see its output`, {
      cause,
    });
  }

  /** Have it finish what it is at, for so long at most. */
  async stop(milliseconds: number): Promise<void> {
    this.#process.kill("SIGTERM");
    this.#process.ref();
    const kill = setTimeout(() => this.#process.kill("SIGKILL"), milliseconds);
    await this.#ended;
    clearTimeout(kill);
  }
}
