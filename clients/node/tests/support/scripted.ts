// A server on a real Unix socket that does what a test's script says.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, type ClientOptions, DspexError } from "../../src/index.js";
import { Peer } from "../../src/testing/index.js";
import { Kind } from "../../src/wire/index.js";

export const TIMEOUT = 20_000;

export type Script = (peer: Peer) => Promise<void>;

/** Run `scenario` with the path of a server whose n-th connection goes by the n-th script. Errors of scripts are thrown at the end. */
export async function serving(scripts: Script[], scenario: (path: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "dspex-"));
  const path = join(folder, "s");
  const sockets = new Set<Socket>();
  const running: Promise<void>[] = [];
  let next = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    const script = scripts[next++];
    if (script === undefined) socket.destroy();
    else running.push(script(new Peer(socket)).finally(() => socket.end()));
  });
  await once(server.listen(path), "listening");
  try {
    await scenario(path);
    await limited(Promise.all(running), "a script waits for something that does not come");
  } finally {
    server.close();
    for (const socket of sockets) socket.destroy();
    await Promise.allSettled(running);
    await rm(folder, { recursive: true });
  }
}

/** `serving`, and a client of it, which is closed at the end. */
export function served(
  scripts: Script[],
  scenario: (client: Client) => Promise<void>,
  options: ClientOptions = {},
): Promise<void> {
  return serving(scripts, async (path) => {
    const client = new Client({ socket: path, ...options });
    try {
      await limited(scenario(client), "the scenario takes too long");
    } finally {
      await client.close();
    }
  });
}

export async function limited<T>(work: Promise<T>, what: string): Promise<T> {
  const over = new AbortController();
  const late = sleep(TIMEOUT, undefined, { signal: over.signal }).then(
    () => assert.fail(what),
    () => undefined as never,
  );
  try {
    return await Promise.race([work, late]);
  } finally {
    over.abort();
  }
}

/** Greet, and answer every request with its params until the client leaves. */
export const echo: Script = async (peer) => {
  await peer.greet();
  await echoing(peer);
};

export async function echoing(peer: Peer): Promise<void> {
  for (let message = await peer.read(); message !== undefined; message = await peer.read()) {
    if (message.kind === Kind.request) peer.answer(message.id, message.params);
  }
}

/** The error that a call ends with, which has this code. */
export async function failure(work: Promise<unknown>, code: string): Promise<DspexError> {
  const outcome = await work.then(
    (value) => assert.fail(`no error, but ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );
  assert(outcome instanceof DspexError, String(outcome));
  assert.equal(outcome.code, code, outcome.message);
  return outcome;
}

/** A promise, and what settles it. */
export function event(): { happened: Promise<void>; happen: () => void } {
  let happen = (): void => {};
  const happened = new Promise<void>((resolve) => {
    happen = resolve;
  });
  return { happened, happen };
}

export function scripted(
  code: string,
  more: { retryable?: boolean; details?: Record<string, unknown> } = {},
): DspexError {
  return new DspexError(code, "as scripted", more);
}

/** Frames with this body. */
export function framed(...bodies: Uint8Array[]): Buffer {
  return Buffer.concat(
    bodies.flatMap((body) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(body.length);
      return [length, body];
    }),
  );
}

/** All items. */
export async function take<T>(items: AsyncIterable<T>): Promise<T[]> {
  const taken: T[] = [];
  for await (const item of items) taken.push(item);
  return taken;
}
