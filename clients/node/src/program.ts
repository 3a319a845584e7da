// A DSPy program that is called like a function.

import type { Caller } from "./caller.js";
import type { Reply } from "./exchange.js";
import type { CallOptions, SessionRef, StreamOptions } from "./options.js";
import type { Stream } from "./stream.js";

const CREDIT = 64;

/** What a program says while it runs. */
export type Delta = { type: "delta"; field: string; text: string } | { type: "status"; message: string };

export type ProgramInfo = {
  program: string;
  scope: "session" | "application";
  module: string;
  signature: string;
  instructions: string;
  /** JSON schemas. */
  inputs: Record<string, unknown>;
  outputs: Record<string, unknown>;
  demos: unknown[];
  model: string | null;
};

/** A program, in the sidecar: `const { answer } = await program({ question: "…" })`. */
export interface Program<I extends object, O> {
  /** Run it; the outputs by name. Throws DspexError. */
  (inputs: I, options?: CallOptions): Promise<O>;
  readonly id: string;
  /** Run it, for who wants the meta of the answer too: `usage` is what its LM requests took. */
  request(inputs: I, options?: CallOptions): Promise<Reply<O>>;
  /** Run it, and hear of it meanwhile. The outputs are the stream's `result`, after its end. */
  stream(inputs: I, options?: StreamOptions): Stream<Delta, O>;
  info(options?: CallOptions): Promise<ProgramInfo>;
  /** Delete it from its session. */
  delete(options?: CallOptions): Promise<void>;
}

export function program<I extends object, O>(
  caller: Caller,
  id: string,
  session: SessionRef | undefined,
): Program<I, O> {
  const run = (inputs: I, options?: CallOptions): Promise<O> =>
    caller.call<O>("execute_program", { program: id, inputs }, { ...options, session });
  return Object.assign(run, {
    id,
    request: (inputs: I, options?: CallOptions) =>
      caller.request<O>("execute_program", { program: id, inputs }, { ...options, session }),
    stream: (inputs: I, options?: StreamOptions) =>
      caller.stream<Delta, O>("execute_program", { program: id, inputs }, { credit: CREDIT, ...options, session }),
    info: (options?: CallOptions) =>
      caller.call<ProgramInfo>("get_program_info", { program: id }, { ...options, session }),
    delete: async (options?: CallOptions) => {
      await caller.call("delete_program", { program: id }, { ...options, session });
    },
  });
}
