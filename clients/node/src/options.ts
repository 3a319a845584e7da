// What may be said of one call.

import type { WireMap } from "./wire/messages.js";

/** A session, by its id alone or with the token it was made with. */
export type SessionRef = string | { readonly id: string; readonly token?: string | undefined };

export type CallOptions = {
  /** Milliseconds until the call ends with `deadline_exceeded`; what connecting takes is part of them. */
  timeoutMs?: number | undefined;
  /** Aborting it cancels the call, in the worker too: it ends with `cancelled`. */
  signal?: AbortSignal | undefined;
  session?: SessionRef | undefined;
  pool?: string | undefined;
  /** The call may be run again if its worker dies. */
  retry?: "safe" | undefined;
  /**
   * Names the call: the sidecar runs it once, however often it is asked for, and answers all alike, for as long as it
   * keeps answers. Not for streams.
   */
  idempotencyKey?: string | undefined;
  /** Where the connection is lost, ask again over a new one, with the same key; one is made where none is given. */
  idempotent?: boolean | undefined;
  /** Of a method that has a process for each call: go on when this client leaves. See `runs.attach`. */
  detach?: boolean | undefined;
  /** W3C trace context. */
  traceparent?: string | undefined;
  /** Handed to the application as it is. */
  app?: Readonly<Record<string, unknown>> | undefined;
};

export type StreamOptions = CallOptions & {
  /** How many items may be on their way; more are asked for as they are taken. */
  credit?: number | undefined;
};

/** The meta of a request, without its time limit; null where there is nothing to say. */
export function callMeta(options: StreamOptions, parent: number | undefined): WireMap | null {
  const { session, pool, retry, traceparent, app, credit } = options;
  const key = options.idempotencyKey ?? (options.idempotent ? crypto.randomUUID() : undefined);
  if (key !== undefined && credit !== undefined) {
    throw new TypeError("a stream has no idempotency key: what was streamed is not kept");
  }
  const meta: WireMap = {};
  if (typeof session === "string") {
    meta.session = session;
  } else if (session !== undefined) {
    if (typeof session?.id !== "string") throw new TypeError("session is a session, or the id of one");
    meta.session = session.id;
    if (session.token !== undefined) meta.session_token = session.token;
  }
  if (pool !== undefined) meta.pool = pool;
  if (credit !== undefined) meta.stream = credit;
  if (retry !== undefined) meta.retry = retry;
  if (key !== undefined) meta.idempotency_key = key;
  if (options.detach === true) meta.detach = true;
  if (traceparent !== undefined) meta.traceparent = traceparent;
  if (app !== undefined) meta.app = app;
  if (parent !== undefined) meta.parent = parent;
  return Object.keys(meta).length === 0 ? null : meta;
}
