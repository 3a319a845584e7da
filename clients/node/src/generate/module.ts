// The types of what a sidecar serves, as a module.

import type { Caller } from "../caller.js";
import { DspexError } from "../errors.js";
import type { ProgramInfo } from "../program.js";
import { literal, typeOf } from "./schema.js";

type Method = {
  name: string;
  doc: string;
  params: unknown;
  result: unknown;
  item: unknown;
  stream: "none" | "optional" | "required";
};

/** Ask what the sidecar serves; the source of a module that has its types. Throws DspexError where that is not known. */
export async function generate(caller: Caller): Promise<string> {
  const { methods } = await caller.call<{ methods: Method[] }>("sidecar.methods");
  if (methods.length === 0) {
    const advice = "try again, and see `reasons` of sidecar.health";
    throw new DspexError("no_workers", `no worker has told yet what it serves: ${advice}`);
  }
  const programs: ProgramInfo[] = [];
  if (methods.some(({ name }) => name === "list_programs")) {
    const listed = await caller.call<{ programs: { program: string }[] }>("list_programs");
    for (const { program } of listed.programs) programs.push(await caller.program(program).info());
  }
  return `// Written by \`dspex generate\` from a sidecar's schemas: write it anew instead of changing it.

import type { Caller, Session, Typed } from "dspex";

export type Served = {
  methods: {
${methods.map(methodOf).join("")}  };
  programs: {
${programs.map(programOf).join("")}  };
};

/** A client or a session whose calls the compiler checks. */
export function typed(caller: Caller | Session): Typed<Served> {
  return caller as unknown as Typed<Served>;
}
`;
}

function methodOf({ name, doc, params, result, item, stream }: Method): string {
  const given = `params: ${typeOf(params)}; result: ${typeOf(result)}`;
  const streamed = `item: ${stream === "none" ? "never" : typeOf(item)}; stream: ${literal(stream)}`;
  return `${comment(doc)}    ${literal(name)}: { ${given}; ${streamed} };\n`;
}

function programOf({ program, instructions, inputs, outputs }: ProgramInfo): string {
  return `${comment(instructions)}    ${literal(program)}: { inputs: ${typeOf(inputs)}; outputs: ${typeOf(outputs)} };\n`;
}

function comment(doc: string | null): string {
  const [first = ""] = (doc ?? "").split("\n", 1);
  return first.trim() === "" ? "" : `    /** ${first.trim().replaceAll("*/", "* /")} */\n`;
}
