#!/usr/bin/env node
// The command line: `dspex generate`.

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { connect } from "../client.js";
import { DspexError } from "../errors.js";
import { generate } from "./module.js";

const USAGE = `usage: dspex generate [--socket PATH] [--out FILE]

Writes a TypeScript module that has the types of all methods and programs that a running sidecar serves.

  --socket PATH  the sidecar's socket (default: DSPEX_SOCKET, then the default path)
  --out FILE     where to write it (default: standard output)
`;

async function main(): Promise<number> {
  let parsed: { values: { socket?: string; out?: string; help?: boolean }; positionals: string[] };
  try {
    const options = { socket: { type: "string" }, out: { type: "string" }, help: { type: "boolean" } } as const;
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    process.stderr.write(`dspex: ${(error as Error).message}\n\n${USAGE}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (positionals.length !== 1 || positionals[0] !== "generate") {
    process.stderr.write(USAGE);
    return 2;
  }
  try {
    const client = await connect({ socket: values.socket, name: "dspex generate" });
    const source = await generate(client).finally(() => client.close());
    if (values.out === undefined) process.stdout.write(source);
    else await writeFile(values.out, source);
  } catch (error) {
    if (!(error instanceof DspexError) && !(error instanceof Error && "errno" in error)) throw error;
    process.stderr.write(`dspex: ${error.message}\n`);
    return 1;
  }
  return 0;
}

process.exitCode = await main();
