// The client against a scripted server: what it does with answers, good and bad.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Client } from "../src/index.js";
import { Kind } from "../src/wire/index.js";
import { echo, echoing, failure, framed, type Script, scripted, served, take } from "./support/scripted.js";

test("a call", async () => {
  const script: Script = async (peer) => {
    const hello = await peer.greet();
    assert.deepEqual(hello.params.protocols, [1]);
    assert.equal((hello.params.client as { name: string }).name, "tester");
    const { id, method, meta, params } = await peer.request();
    const { timeout_ms: left, ...rest } = meta;
    assert((left as number) > 0 && (left as number) <= 1500);
    assert.deepEqual(rest, { session: "s", session_token: "t", retry: "safe", app: { a: [1] }, pool: "default" });
    assert.deepEqual([method, params], ["m", { x: 1 }]);
    peer.answer(id, { y: null }, { worker: "w1", run_us: 5 });
    peer.answer((await peer.request()).id, "bare");
    const keyed = await peer.request();
    assert.deepEqual(keyed.meta, { idempotency_key: "k", traceparent: "00-1-2-01" });
    peer.answer(keyed.id, "keyed");
  };
  const scenario = async (client: Client): Promise<void> => {
    const session = { id: "s", token: "t" };
    const options = { session, timeoutMs: 1500, retry: "safe", app: { a: [1] }, pool: "default" } as const;
    const reply = await client.request("m", { x: 1 }, options);
    assert.deepEqual(reply, { result: { y: null }, meta: { worker: "w1", run_us: 5 } });
    assert.equal(client.server.server?.name, "fake");
    assert.equal(await client.call("m"), "bare");
    assert.equal(await client.call("m", null, { idempotencyKey: "k", traceparent: "00-1-2-01" }), "keyed");
  };
  await served([script], scenario, { name: "tester" });
});

test("errors", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    peer.fail((await peer.request()).id, scripted("session_not_found"));
    peer.fail((await peer.request()).id, scripted("unheard_of", { retryable: true, details: { a: 1 } }));
    peer.raw(framed(Buffer.from([0x95, 0x01, (await peer.request()).id, 0xc0, 0x80, 0xc0]))); // an empty error map
  };
  await served([script], async (client) => {
    const lost = await failure(client.call("m"), "session_not_found");
    assert.deepEqual([lost.message, lost.retryable, lost.details, lost.name], ["as scripted", false, {}, "DspexError"]);
    const unheard = await failure(client.call("m"), "unheard_of");
    assert.deepEqual([unheard.retryable, unheard.details], [true, { a: 1 }]);
    await failure(client.call("m"), "internal");
  });
});

test("what cannot be sent is not sent", async () => {
  const script: Script = async (peer) => {
    await peer.greet({ max_frame: 65_536 });
    await echoing(peer);
  };
  await served([script], async (client) => {
    const { details } = await failure(client.call("m", { a: [new Set()] }), "not_serializable");
    assert.deepEqual(details, { path: "params.a[0]" });
    const large = await failure(client.call("m", { a: Buffer.alloc(70_000) }), "frame_too_large");
    assert.equal(large.details.limit, 65_536);
    assert.deepEqual(await client.call("m", { a: 1 }), { a: 1 });
  });
});

test("a call whose session is none is not made without one", () =>
  served([], async (client) => {
    for (const session of [5, {}, null] as unknown as string[]) {
      await assert.rejects(async () => client.call("m", null, { session }), /session is a session, or the id of one/);
    }
  }));

test("a late answer reaches nobody", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const first = await peer.request();
    assert.deepEqual(await peer.read(), { kind: Kind.cancel, id: first.id, reason: null });
    const second = await peer.request();
    assert.notEqual(second.id, first.id);
    peer.answer(first.id, "late");
    peer.answer(second.id, "second");
    await echoing(peer);
  };
  await served([script], async (client) => {
    await client.connect(); // what that takes is part of a call's time
    const { details } = await failure(client.call("slow", null, { timeoutMs: 50 }), "deadline_exceeded");
    assert.deepEqual(details, { ended_by: "client" });
    assert.equal(await client.call("m"), "second");
  });
});

test("an answer over the limit settles its own call only", async () => {
  const script: Script = async (peer) => {
    const hello = await peer.greet();
    assert.equal(hello.params.max_frame, 65_536);
    peer.answer((await peer.request()).id, Buffer.alloc(70_000));
    const { id } = await peer.request();
    peer.item(id, Buffer.alloc(70_000));
    assert.equal((await peer.read())?.kind, Kind.cancel);
    peer.fail(id, scripted("cancelled"));
    peer.ask(77, "ask", {}, { a: Buffer.alloc(70_000) });
    const late = [await peer.read(), await peer.read()]; // that answer, and the next call
    const refused = late.find((message) => message?.kind === Kind.response);
    assert.deepEqual([refused?.id, refused?.error?.code], [77, "frame_too_large"]);
    peer.answer(late.find((message) => message?.kind === Kind.request)?.id ?? 0, { n: 1 });
  };
  const scenario = async (client: Client): Promise<void> => {
    const { details } = await failure(client.call("m"), "frame_too_large");
    assert.equal(details.limit, 65_536);
    assert((details.length as number) > 70_000);
    await failure(take(client.stream("s")), "frame_too_large");
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  };
  await served([script], scenario, { maxFrame: 65_536 });
});

test("large frames both ways at once", async () => {
  const big = Buffer.alloc(4 << 20, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
  const script: Script = async (peer) => {
    await peer.greet();
    peer.answer((await peer.request()).id, big); // before the second, as large, has been read: it is on its way
    peer.answer((await peer.request()).id, big);
  };
  await served([script], async (client) => {
    const results = await Promise.all([client.call("m", { a: big }), client.call("m", { a: big })]);
    assert.deepEqual(results, [big, big]);
  });
});

test("refused in the handshake", async () => {
  const refuse: Script = async (peer) => peer.fail((await peer.request()).id, scripted("permission_denied"));
  const babble: Script = async (peer) => peer.answer((await peer.request()).id, { protocol: 2, max_frame: 65_536 });
  const nothing: Script = async (peer) => peer.answer((await peer.request()).id, null);
  const leave: Script = async () => {};
  await served([refuse, babble, nothing, leave], async (client) => {
    await failure(client.connect(), "permission_denied");
    await failure(client.connect(), "invalid_frame");
    await failure(client.connect(), "invalid_frame");
    await failure(client.connect(), "connection_lost");
  });
});

describe("an AbortSignal", () => {
  test("cancels its call", async () => {
    const controller = new AbortController();
    const script: Script = async (peer) => {
      await peer.greet();
      const { id } = await peer.request();
      controller.abort(new Error("changed my mind"));
      assert.deepEqual(await peer.read(), { kind: Kind.cancel, id, reason: null });
      peer.fail(id, scripted("cancelled"));
      await echoing(peer);
    };
    await served([script], async (client) => {
      const { signal } = controller;
      const { cause, details } = await failure(client.call("m", null, { signal }), "cancelled");
      assert.equal((cause as Error).message, "changed my mind");
      assert.deepEqual(details, { ended_by: "caller" });
      await failure(client.call("m", null, { signal }), "cancelled"); // nothing is sent
      await failure(take(client.stream("m", null, { signal })), "cancelled");
      assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
    });
  });
  test("serves any number of calls", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const script: Script = async (peer) => {
      await peer.greet();
      for (let n = 0; n < 50; n++) await peer.request();
      controller.abort();
      for (let n = 0; n < 50; n++) assert.equal((await peer.read())?.kind, Kind.cancel);
      await echoing(peer);
    };
    const warnings: Error[] = [];
    const warned = (warning: Error): number => warnings.push(warning);
    process.on("warning", warned);
    await served([script], async (client) => {
      const calls = Array.from({ length: 50 }, () => failure(client.call("m", null, { signal }), "cancelled"));
      await Promise.all(calls);
      assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
    });
    process.off("warning", warned);
    assert.deepEqual(warnings, []);
  });
  test("is left alone once the call has ended", () =>
    served([echo], async (client) => {
      const controller = new AbortController();
      const { signal } = controller;
      let listeners = 0;
      const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
      signal.addEventListener = (...args: Parameters<typeof add>) => {
        listeners++;
        add(...args);
      };
      signal.removeEventListener = (...args: Parameters<typeof remove>) => {
        listeners--;
        remove(...args);
      };
      await client.call("m", null, { signal });
      await take(client.stream("m", null, { signal }));
      assert.equal(listeners, 0);
    }));
});

test("sessions and programs", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const made = await peer.request();
    const state = { session: "s", state: { a: 1 }, ttl_ms: 2500, labels: { l: "x" }, token: true };
    assert.deepEqual(made.params, state);
    peer.answer(made.id, { session: "s", token: "t" });
    const mine = { session: "s", session_token: "t" };
    const expect = async (method: string, params: object, result: unknown): Promise<void> => {
      const request = await peer.request();
      assert.deepEqual([request.method, request.meta, request.params], [method, mine, params]);
      peer.answer(request.id, result, { worker: "w" });
    };
    await expect("configure_lm", { model: "local" }, { model: "local" });
    const program = { id: "qa", signature: "q -> a", module: "predict" };
    await expect("create_program", program, { program: "qa" });
    await expect("execute_program", { program: "qa", inputs: { q: "?", self: 1 } }, { a: "!" });
    await expect("execute_program", { program: "qa", inputs: { q: "?" } }, { a: "!" });
    await expect("get_program_info", { program: "qa" }, { program: "qa" });
    await expect("session.update", { set: { k: 1 }, delete: ["d"] }, { session: "s", version: 2 });
    await expect("session.get", {}, { state: { k: 1 } });
    const { id, meta } = await peer.request();
    assert.deepEqual(meta, { ...mine, stream: 64 });
    peer.item(id, { type: "delta", field: "a", text: "!" });
    peer.answer(id, { a: "!" });
    await expect("delete_program", { program: "qa" }, { program: "qa" });
    const gone = await peer.request();
    assert.equal(gone.method, "session.end");
    peer.fail(gone.id, scripted("session_not_found")); // it is over either way
  };
  await served([script], async (client) => {
    const options = { id: "s", state: { a: 1 }, ttlMs: 2500, labels: { l: "x" }, token: true };
    await using session = await client.createSession(options);
    assert.deepEqual(await session.configureLM("local"), { model: "local" });
    const program = await session.createProgram<{ q: string; self?: number }, { a: string }>("qa", "q -> a", {
      module: "predict",
    });
    assert.equal((await program({ q: "?", self: 1 })).a, "!");
    const { result, meta } = await program.request({ q: "?" });
    assert.deepEqual([result, meta], [{ a: "!" }, { worker: "w" }]);
    assert.equal((await program.info()).program, "qa");
    await session.update({ set: { k: 1 }, delete: ["d"] });
    assert.deepEqual(await session.state(), { k: 1 });
    const stream = session.program("qa").stream({ q: "?" });
    const texts = await take(stream);
    assert.deepEqual(texts, [{ type: "delta", field: "a", text: "!" }]);
    assert.deepEqual(stream.result, { a: "!" });
    await program.delete();
  });
});
