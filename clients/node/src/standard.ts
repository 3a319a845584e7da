// Results that a schema of the caller's own checks: anything that keeps to Standard Schema, as Zod and others do.

import { DspexError } from "./errors.js";

/** https://standardschema.dev, version 1. */
export interface StandardSchema<Output = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => Validated<Output> | Promise<Validated<Output>>;
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined;
  };
}

type Issue = { readonly message: string; readonly path?: readonly unknown[] | undefined };
type Validated<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly Issue[] };

/** What the schema makes of a value. Throws DspexError (`invalid_result`, the client's own) that names what is wrong. */
export async function checked<T>(schema: StandardSchema<T>, value: unknown, what: string): Promise<T> {
  const outcome = await schema["~standard"].validate(value);
  if (outcome.issues === undefined) return outcome.value;
  const errors = outcome.issues.map(({ message, path = [] }) => ({ path: path.map(step).join("."), message }));
  const told = errors.map(({ path, message }) => (path === "" ? message : `${path}: ${message}`)).join("; ");
  throw new DspexError("invalid_result", `what ${what} returned is not what was expected: ${told}`, {
    details: { errors },
  });
}

function step(part: unknown): string {
  return String(typeof part === "object" && part !== null && "key" in part ? part.key : part);
}
