// Functions that the client offers to its calls' workers, and the requests of the sidecar's that are being answered.

import { type Asked, Caller, type Offered } from "./caller.js";
import type { Connection } from "./connection.js";
import { cancelled, DspexError } from "./errors.js";
import { Exchange } from "./exchange.js";
import type { Lines } from "./lines.js";
import type { Request } from "./wire/messages.js";

export class Offers {
  /** By session (undefined: for all), then by name. */
  readonly #offered = new Map<string | undefined, Map<string, Offered>>();
  /** What is being answered, by connection and id. */
  readonly #answering = new Map<Connection, Map<number, AbortController>>();

  /** Returns what takes the function back. Throws TypeError where it is none. */
  add(session: string | undefined, name: string, offered: Offered): () => void {
    if (typeof offered !== "function") {
      throw new TypeError(`what is offered as '${name}' is a function, not a ${typeof offered}`);
    }
    const names = this.#offered.get(session) ?? new Map<string, Offered>();
    this.#offered.set(session, names.set(name, offered));
    return () => {
      if (names.get(name) === offered) names.delete(name);
      if (names.size === 0 && this.#offered.get(session) === names) this.#offered.delete(session);
    };
  }

  /** The sidecar asks: run the function, and answer with what it returns or throws. */
  async asked(lines: Lines, connection: Connection, request: Request): Promise<void> {
    const { id, method, params, meta } = request;
    const session = sessionOf(connection, meta.call);
    const offered = this.#find(session, method);
    if (offered === undefined) {
      connection.refuse(id, new DspexError("unknown_method", `this client offers no method '${method}'`));
      return;
    }
    const ending = new AbortController();
    const { signal } = ending;
    const of = this.#answering.get(connection) ?? new Map<number, AbortController>();
    this.#answering.set(connection, of.set(id, ending));
    const offer = this.add.bind(this);
    const client = new Caller(lines, { signal, offer, answering: { via: connection, id } });
    const asked: Asked = { method, client, signal, session };
    try {
      const result = await offered(params, asked);
      if (!signal.aborted) connection.answer(id, result);
    } catch (error) {
      if (!signal.aborted) connection.refuse(id, DspexError.from(error));
    } finally {
      of.delete(id);
    }
  }

  /** The answer is wanted no more. The function may go on; what it returns goes nowhere. */
  cancelled(connection: Connection, id: number): void {
    const ending = this.#answering.get(connection)?.get(id);
    if (ending === undefined) return;
    ending.abort(cancelled());
    connection.refuse(id, cancelled());
  }

  /** The connection has ended, and with it all that was asked over it. */
  gone(connection: Connection, error: DspexError): void {
    for (const ending of this.#answering.get(connection)?.values() ?? []) ending.abort(error);
    this.#answering.delete(connection);
  }

  #find(session: string | undefined, name: string): Offered | undefined {
    return (
      (session === undefined ? undefined : this.#offered.get(session)?.get(name)) ??
      this.#offered.get(undefined)?.get(name)
    );
  }
}

/** The session of the call that asks. */
function sessionOf(connection: Connection, id: unknown): string | undefined {
  const call = typeof id === "number" ? connection.call(id) : undefined;
  const session = call instanceof Exchange ? call.outgoing.meta?.session : undefined;
  return typeof session === "string" ? session : undefined;
}
