// The client against a server that misbehaves, as testdata/clients tells: Python's run the same rows.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { type Client, DspexError } from "../src/index.js";
import type { Peer } from "../src/testing/index.js";
import { Kind } from "../src/wire/index.js";
import { ROOT } from "./support/root.js";
import { echoing, framed, type Script, served } from "./support/scripted.js";
import { type Bytes, expand } from "./support/vectors.js";

type Call = {
  stream?: number;
  timeout_ms?: number;
  items?: unknown[];
  result?: unknown;
  error?: string;
  says?: string;
  details?: object;
};
type Step = {
  frame?: Bytes;
  bytes?: Bytes;
  cut?: number;
  portion?: number;
  read?: keyof typeof Kind | null;
  wait_ms?: number;
  close?: true;
};
type Row = {
  name: string;
  stop_report_ms?: number;
  calls: Record<string, Call>;
  server: Step[];
  then: "same" | "new";
};
type Seen = { items: unknown[]; result?: unknown; error?: string; message?: string; details?: object };

const { rows } = JSON.parse(readFileSync(resolve(ROOT, "testdata/clients/misbehaving.json"), "utf8")) as {
  rows: Row[];
};

/** The bytes that a step writes. */
function written({ frame, bytes, cut }: Step, ids: Map<string, number>): Buffer {
  let form = JSON.stringify(frame ?? bytes);
  for (const [method, id] of ids) form = form.replaceAll(`{${method}}`, `cf${id.toString(16).padStart(16, "0")}`);
  const data = expand(JSON.parse(form));
  return (frame === undefined ? data : framed(data)).subarray(0, cut);
}

async function act(peer: Peer, row: Row): Promise<void> {
  const { stop_report_ms } = row;
  await peer.greet(stop_report_ms === undefined ? {} : { stop_report_ms });
  const ids = new Map<string, number>();
  for (const _ of Object.keys(row.calls)) {
    const { method, id } = await peer.request();
    ids.set(method, id);
  }
  for (const step of row.server) {
    if (step.close) return;
    if (step.wait_ms !== undefined) {
      await sleep(step.wait_ms);
    } else if (step.read !== undefined) {
      let message = await peer.read();
      while (message?.kind === Kind.credit) message = await peer.read();
      assert.equal(message?.kind, step.read === null ? undefined : Kind[step.read]);
    } else {
      const data = written(step, ids);
      const portion = step.portion ?? data.length;
      for (let at = 0; at < data.length; at += portion) {
        peer.raw(data.subarray(at, at + portion));
        if (portion < data.length) await turn();
      }
    }
  }
  await echoing(peer);
}

/** What the caller sees. */
async function seen(client: Client, method: string, { stream: credit, timeout_ms: timeoutMs }: Call): Promise<Seen> {
  const items: unknown[] = [];
  try {
    if (credit === undefined) return { items, result: await client.call(method, null, { timeoutMs }) };
    const stream = client.stream(method, null, { timeoutMs, credit });
    for await (const item of stream) items.push(item);
    return { items, result: stream.result };
  } catch (thrown) {
    assert(thrown instanceof DspexError, String(thrown));
    const { code: error, message, details } = thrown;
    return { items, error, message, details };
  }
}

function check(call: Call, found: Seen): void {
  for (const name of ["items", "result", "error", "details"] as const) {
    if (name in call) assert.deepEqual(found[name], call[name]);
  }
  assert.equal("error" in found, "error" in call, JSON.stringify(found));
  assert((found.message ?? "").includes(call.says ?? ""), found.message);
}

describe("a server that misbehaves", () => {
  for (const row of rows) {
    test(row.name, async () => {
      const connections: Row["then"][] = [];
      const first: Script = (peer) => {
        connections.push("same");
        return act(peer, row);
      };
      const second: Script = async (peer) => {
        connections.push("new");
        await peer.greet();
        await echoing(peer);
      };
      await served([first, second], async (client) => {
        await client.connect(); // what that takes is part of a call's time
        const calls = Object.entries(row.calls);
        const found = await Promise.all(calls.map(([method, call]) => seen(client, method, call)));
        found.forEach((one, at) => void check((calls[at] as [string, Call])[1], one));
        assert.deepEqual(await client.call("after", { n: 1 }), { n: 1 });
        assert.equal(connections.at(-1), row.then);
      });
    });
  }
});
