// Where the sidecar's socket is, and what went wrong with it in words.

import { join } from "node:path";
import { DspexError } from "./errors.js";

const LONGEST = 107; // bytes of a Unix socket's path

/** `path`, else DSPEX_SOCKET, else `$XDG_RUNTIME_DIR/dspex/dspex.sock`, else `/run/dspex/dspex.sock`. */
export function socketPath(path?: string): string {
  if (path !== undefined) {
    if (typeof path !== "string") throw new TypeError(`socket is a path, not a ${typeof path}`);
    return path;
  }
  return process.env.DSPEX_SOCKET || join(process.env.XDG_RUNTIME_DIR || "/run", "dspex", "dspex.sock");
}

/** Whether a socket can have this path; else the system cuts it without a word. */
export function checkPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes === 0) throw noSidecar(path, "the path is empty");
  if (bytes > LONGEST)
    throw noSidecar(path, `the path has ${bytes} bytes, ${LONGEST} are possible; choose a shorter one`);
}

/** The error of a connection that could not be made. */
export function unreachable(path: string, error: NodeJS.ErrnoException): DspexError {
  const advice = "start one with `dspex-sidecar serve`, or name its socket in DSPEX_SOCKET";
  switch (error.code) {
    case "EACCES":
    case "EPERM":
      return noSidecar(
        path,
        "permission denied; see `mode` and `allow_uids` under [listen] in its configuration",
        error,
      );
    case "ENOENT":
      return noSidecar(path, `there is no such socket; ${advice}`, error);
    case "ECONNREFUSED":
      return noSidecar(path, `nobody listens there; ${advice}`, error);
    default:
      return noSidecar(path, `${error.message}; ${advice}`, error);
  }
}

/** The error of a connection that was made, and on which `hello` was not answered. */
export function noGreeting(path: string, ms: number): DspexError {
  return noSidecar(path, `it did not answer the handshake within ${Math.round(ms)} ms; see its log`);
}

/** The error of a connection that broke. */
export function broken(error: Error): DspexError {
  return new DspexError("connection_lost", `the connection to the sidecar broke: ${error.message}`, { cause: error });
}

function noSidecar(path: string, reason: string, cause?: unknown): DspexError {
  return new DspexError("connection_lost", `no sidecar at ${path}: ${reason}`, { details: { path }, cause });
}
