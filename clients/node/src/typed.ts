// Calls that the compiler checks: the types are made by `dspex generate`.

import type { Reply } from "./exchange.js";
import type { CallOptions, StreamOptions } from "./options.js";
import type { Program } from "./program.js";
import type { Stream } from "./stream.js";

/** What a sidecar serves. */
export type ServedTypes = {
  methods: Record<string, { params: object; result: unknown; item: unknown; stream: "none" | "optional" | "required" }>;
  programs: Record<string, { inputs: object; outputs: object }>;
};

type Methods<S extends ServedTypes> = S["methods"];

type Named<S extends ServedTypes, Streams> = {
  [K in keyof Methods<S>]: Methods<S>[K]["stream"] extends Streams ? K : never;
}[keyof Methods<S>] &
  string;

/** Parameters may be left out where none is required. */
type Rest<P, O> = Record<never, never> extends P ? [params?: P | null, options?: O] : [params: P, options?: O];

/** A client or a session, as what is served has it. Everything else is on the client or session itself. */
export interface Typed<S extends ServedTypes> {
  call<K extends Named<S, "none" | "optional">>(
    method: K,
    ...rest: Rest<Methods<S>[K]["params"], CallOptions>
  ): Promise<Methods<S>[K]["result"]>;
  request<K extends Named<S, "none" | "optional">>(
    method: K,
    ...rest: Rest<Methods<S>[K]["params"], CallOptions>
  ): Promise<Reply<Methods<S>[K]["result"]>>;
  stream<K extends Named<S, "optional" | "required">>(
    method: K,
    ...rest: Rest<Methods<S>[K]["params"], StreamOptions>
  ): Stream<Methods<S>[K]["item"], unknown>;
  program<K extends keyof S["programs"] & string>(
    id: K,
  ): Program<S["programs"][K]["inputs"], S["programs"][K]["outputs"]>;
}
