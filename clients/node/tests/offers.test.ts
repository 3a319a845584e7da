// Functions that the client offers to its calls' workers, against a scripted server.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Asked } from "../src/index.js";
import { Client, DspexError } from "../src/index.js";
import type { Peer } from "../src/testing/index.js";
import { encodeCancel, Kind, type Response } from "../src/wire/index.js";
import { echoing, event, failure, framed, type Script, served } from "./support/scripted.js";

/** Greet, take a call, ask with it, and pass the answer on as the call's own. */
function asking(method: string, params = {}): Script {
  return async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.ask(5, method, { call: id }, params);
    const { error, result } = await response(peer, 5);
    if (error === null) peer.answer(id, result);
    else peer.fail(id, DspexError.fromWire(error));
    await echoing(peer);
  };
}

async function response(peer: Peer, id: number): Promise<Response> {
  const message = await peer.read();
  assert(message?.kind === Kind.response && message.id === id, JSON.stringify(message));
  return message;
}

describe("what a function does is what the worker hears", () => {
  const cases: [name: string, offered: (params: { a: number }) => unknown, code: string | undefined][] = [
    ["a result", ({ a }) => ({ sum: a + 1 }), undefined],
    ["a promise of one", async ({ a }) => ({ sum: a + 1 }), undefined],
    ["nothing", () => undefined, undefined],
    ["an error of its own", () => assert.fail("not today"), "program_error"],
    ["an error with a code", () => Promise.reject(new DspexError("permission_denied", "not you")), "permission_denied"],
    ["a thrown text", () => Promise.reject("text"), "program_error"],
    ["what cannot be sent", () => [new Set()], "not_serializable"],
    ["what is too long", () => Buffer.alloc(17 << 20), "frame_too_large"],
  ];
  for (const [name, offered, code] of cases) {
    test(name, () =>
      served([asking("client.add", { a: 1 })], async (client) => {
        client.offer("client.add", offered);
        const call = client.call("m");
        if (code !== undefined) {
          await failure(call, code);
        } else {
          const expected = await offered({ a: 1 });
          assert.deepEqual(await call, expected === undefined ? null : expected);
        }
        assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
      }),
    );
  }
  test("an error that is too long comes without its details", () =>
    served([asking("f")], async (client) => {
      client.offer("f", () => {
        throw new DspexError("lm_error", "short", { details: { long: "x".repeat(17 << 20) } });
      });
      await failure(client.call("m"), "frame_too_large");
    }));
});

test("what is not offered, or no longer, is unknown", () =>
  served([asking("f"), asking("f")], async (client) => {
    const takeBack = client.offer("f", () => 1);
    takeBack();
    const { message } = await failure(client.call("m"), "unknown_method");
    assert.match(message, /offers no method 'f'/);
  }));

test("a session's functions are for its calls alone, and go before the client's", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const answers: unknown[] = [];
    for (let ask = 1; ask <= 4; ask++) {
      const { id } = await peer.request();
      peer.ask(ask, "who", { call: id }, {});
      const { error, result } = await response(peer, ask);
      answers.push(error === null ? result : error.code);
      peer.answer(id, null);
    }
    assert.deepEqual(answers, ["for a", "unknown_method", "for all", "for a"]);
  };
  await served([script], async (client) => {
    const [a, b] = [client.session("a"), client.session("b")];
    a.offer("who", (_, { session }) => `for ${session}`);
    await a.call("m");
    await b.call("m");
    client.offer("who", () => "for all");
    await b.call("m");
    await a.call("m");
  });
});

test("calls made while answering are part of the call that asks, on its connection", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.notify("goaway", { reason: "test", drain_ms: 1000 }); // nested calls still go over this one
    peer.ask(7, "f", { call: id }, {});
    const nested = [await peer.request(), await peer.request(), await peer.request()];
    assert.deepEqual(
      nested.map(({ method, meta }) => [method, meta]),
      [
        ["m", { parent: 7 }],
        ["s", { parent: 7, session: "x", stream: 16 }],
        ["execute_program", { parent: 7 }],
      ],
    );
    for (const one of nested) peer.answer(one.id, one.method);
    peer.answer(id, (await response(peer, 7)).result);
    assert.equal(await peer.read(), undefined);
  };
  await served([script], async (client) => {
    client.offer("f", async (_, asked: Asked) => {
      const stream = asked.client.session("x").stream("s");
      const calls = [asked.client.call("m"), stream.next(), asked.client.program("p")({})];
      const [one, , three] = await Promise.all(calls);
      return [one, stream.result, three];
    });
    assert.deepEqual(await client.call("outer"), ["m", "s", "execute_program"]);
  });
});

test("an answer that is wanted no more", async () => {
  const ended = event();
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.ask(5, "f", { call: id }, {});
    const nested = await peer.request();
    peer.cancel(5);
    const late = [await peer.read(), await peer.read()];
    const refused = late.find((message) => message?.kind === Kind.response);
    assert.deepEqual([refused?.id, refused?.error?.code], [5, "cancelled"]);
    assert.equal(late.find((message) => message?.kind === Kind.cancel)?.id, nested.id);
    await ended.happened;
    peer.cancel(5); // again, and of an id that is unknown
    peer.cancel(99);
    peer.answer(id, "over");
    await echoing(peer);
  };
  await served([script], async (client) => {
    client.offer("f", async (_, { client: inner, signal }) => {
      await failure(inner.call("nested"), "cancelled");
      assert(signal.aborted);
      ended.happen();
      return "nobody hears this";
    });
    assert.equal(await client.call("m"), "over");
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  });
});

test("a connection that is lost ends what was asked over it", async () => {
  const [began, aborted] = [event(), event()];
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.ask(5, "f", { call: id }, {});
    await began.happened;
    peer.socket.destroy();
  };
  await served([script], async (client: Client) => {
    client.offer("f", (_, { signal }) => {
      signal.addEventListener("abort", aborted.happen);
      began.happen();
      return aborted.happened;
    });
    await failure(client.call("m"), "connection_lost");
    await aborted.happened;
  });
});

test("a cancel that is too long settles no call of the client's", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    const head = peer.frames((to) => encodeCancel(to, id)).subarray(4);
    peer.raw(framed(Buffer.concat([head, Buffer.alloc(70_000)])));
    peer.answer(id, "good");
    await echoing(peer);
  };
  await served([script], async (client) => assert.equal(await client.call("m"), "good"), { maxFrame: 65_536 });
});

test("only functions are offered", async () => {
  const client = new Client({ socket: "/no/such" });
  // @ts-expect-error
  assert.throws(() => client.offer("f", 5), /'f' is a function, not a number/);
  await client.close();
});
