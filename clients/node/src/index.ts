/**
 * Client of dspex-sidecar: calls to warm Python workers, and DSPy programs, over a Unix socket.
 *
 *     const client = await connect();
 *     console.log(await client.call("echo", { value: 1 }));
 *
 * A fake sidecar for tests is in `dspex/testing`, the protocol without sockets in `dspex/wire`.
 */

export {
  type Adapter,
  type AdapterCall,
  type AdapterKind,
  type AdapterOptions,
  get_adapter,
  type InSession,
  type ProgramConfig,
} from "./adapter.js";
export type { Asked, Caller, Offered, Params, SessionOptions } from "./caller.js";
export { Client, type ClientEvents, type ClientOptions, connect, type Server } from "./client.js";
export { type Code, DspexError, type DspexErrorOptions, type KnownCode } from "./errors.js";
export type { Reply } from "./exchange.js";
export type { CallOptions, SessionRef, StreamOptions } from "./options.js";
export type { Delta, Program, ProgramInfo } from "./program.js";
export type { LMChoice, ProgramOptions, Session, SessionInfo, Signature, Tool } from "./session.js";
export type { StandardSchema } from "./standard.js";
export type { Stream } from "./stream.js";
export type { ServedTypes, Typed } from "./typed.js";
export { Timestamp } from "./wire/timestamp.js";
