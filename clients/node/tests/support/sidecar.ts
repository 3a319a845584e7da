// The real sidecar with its workers, as a process.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../src/index.js";
import { ROOT } from "./root.js";
import { TIMEOUT } from "./scripted.js";

const BINARY = resolve(ROOT, "build/dspex-sidecar");
export const PYTHON = resolve(ROOT, "build/venv/bin/python");
const WAIT = 2 * TIMEOUT;

export class Sidecar {
  readonly path: string;
  readonly #process: ChildProcess;
  readonly #folder: string;
  #log = "";

  private constructor(folder: string) {
    this.#folder = folder;
    this.path = join(folder, "s");
    const kept = Object.entries(process.env).filter(([name]) => !/^(DSPEX_|XDG_|PYTHON)/.test(name));
    const env = { ...Object.fromEntries(kept), LM_KEY: "key" };
    const args = ["serve", "--config", join(folder, "dspex.toml")];
    this.#process = spawn(BINARY, args, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on("data", (data) => {
        this.#log += data;
      });
    }
  }

  /** Start one that serves this application (`module:attribute`, its folder from the project's), with more tables of TOML. */
  static async start(folder: string, app: string, more = ""): Promise<Sidecar> {
    assert(
      existsSync(BINARY) && existsSync(PYTHON),
      "build/dspex-sidecar and build/venv are not there: run `make build`",
    );
    const own = await mkdtemp(join(tmpdir(), "dspex-"));
    const pool = `app = "${app}"\npython = "${PYTHON}"\nsize = 2\nmax_overflow = 0\n`;
    const path = `env = { PYTHONPATH = "${resolve(ROOT, folder)}" }\n`;
    await writeFile(join(own, "dspex.toml"), `[listen]\nsocket = "s"\n[pools.default]\n${pool}${path}${more}`);
    const sidecar = new Sidecar(own);
    try {
      await sidecar.#healthy();
    } catch (error) {
      sidecar.#process.kill("SIGKILL");
      throw new Error(`the sidecar does not get healthy: ${sidecar.#log}`, { cause: error });
    }
    return sidecar;
  }

  async #healthy(): Promise<void> {
    const ended = new AbortController();
    this.#process.once("exit", () => ended.abort());
    await using client = await connect({ socket: this.path, waitMs: WAIT, signal: ended.signal });
    const until = performance.now() + WAIT;
    while ((await client.call<{ status: string }>("sidecar.health")).status !== "healthy") {
      assert(performance.now() < until);
      await sleep(20);
    }
  }

  /** Have it drain and end. */
  async stop(): Promise<void> {
    const ended = once(this.#process, "exit");
    this.#process.kill("SIGTERM");
    const [code] = await ended;
    await rm(this.#folder, { recursive: true, force: true });
    assert.equal(code, 0, this.#log);
  }
}
