// The client against a scripted server: what it does with answers, good and bad.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import type { Client } from "../src/index.js";
import { encodeResponse, Kind } from "../src/wire/index.js";
import { echo, echoing, failure, framed, type Script, scripted, served, TIMEOUT, take } from "./support/scripted.js";

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
    const { details } = await failure(client.call("slow", null, { timeoutMs: 50 }), "deadline_exceeded");
    assert.deepEqual(details, { ended_by: "client" });
    assert.equal(await client.call("m"), "second");
  });
});

test("an answer that takes as long as the sidecar said is waited for", async () => {
  const script: Script = async (peer) => {
    await peer.greet({ stop_report_ms: TIMEOUT });
    const { id } = await peer.request();
    await sleep(400); // past the deadline, and what any client waits
    peer.fail(id, scripted("deadline_exceeded", { details: { ended_by: "kill" } }));
    await echoing(peer);
  };
  await served([script], async (client) => {
    const { details } = await failure(client.call("slow", null, { timeoutMs: 50 }), "deadline_exceeded");
    assert.deepEqual(details, { ended_by: "kill" });
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  });
});

test("what belongs to nothing is ignored", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.answer(id, "good");
    peer.answer(id, "again");
    peer.answer(999, "stray");
    peer.item(999, "stray");
    peer.cancel(999);
    peer.notify("news", {});
    peer.raw(framed(Buffer.from("926301", "hex"), Buffer.from("90", "hex"))); // an unknown kind; a head that cannot be read
    await echoing(peer);
  };
  await served([script], async (client) => {
    assert.equal(await client.call("m"), "good");
    assert.deepEqual(await client.call("m", { n: 2 }), { n: 2 });
  });
});

test("bytes one at a time", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.socket.setNoDelay();
    for (const byte of peer.frames((to) => encodeResponse(to, id, { worker: "w" }, { text: "é".repeat(20) }))) {
      peer.raw(Buffer.from([byte]));
      await turn();
    }
    await echoing(peer);
  };
  await served([script], async (client) => assert.deepEqual(await client.call("m"), { text: "é".repeat(20) }));
});

describe("a cut frame settles all calls, and the next connects again", () => {
  for (const cut of [0, 3, 4, 5, -1]) {
    test(`cut at ${cut}`, async () => {
      const script: Script = async (peer) => {
        await peer.greet();
        const { id } = await peer.request();
        await peer.request();
        await peer.request();
        peer.raw(peer.frames((to) => encodeResponse(to, id, null, "cut")).subarray(0, cut));
        peer.socket.end();
      };
      await served([script, echo], async (client) => {
        const calls = await Promise.all([1, 2, 3].map(() => failure(client.call("m"), "connection_lost")));
        for (const lost of calls) assert.match(lost.message, /closed the connection/);
        assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
      });
    });
  }
});

describe("broken structure ends the connection", () => {
  const bombs = {
    nesting: framed(Buffer.alloc(2_000_000, 0x91)),
    length: framed(Buffer.from("ddffffffff", "hex")),
    chain: framed(Buffer.alloc(15_000, Buffer.from("dcffff", "hex"))),
    extension: framed(Buffer.from("950102c0c0d40100", "hex")),
    "type 0xc1": framed(Buffer.from("c1", "hex")),
    "length 0": Buffer.alloc(4),
  };
  for (const [name, bomb] of Object.entries(bombs)) {
    test(name, async () => {
      const script: Script = async (peer) => {
        await peer.greet();
        await peer.request();
        peer.raw(bomb);
        assert.equal(await peer.read(), undefined);
      };
      await served([script, echo], async (client) => {
        assert.match((await failure(client.call("m"), "connection_lost")).message, /broke the protocol/);
        assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
      });
    });
  }
});

test("bad content settles its own call only", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const [first, second, stream] = [await peer.request(), await peer.request(), await peer.request()];
    peer.raw(framed(Buffer.from([0x95, 0x01, first.id, 0xc0, 0xc0, 0xa1, 0xff])));
    peer.raw(framed(Buffer.from([0x94, 0x03, stream.id, 0xc0, 0xa1, 0xff])));
    peer.raw(framed(Buffer.from([0x95, 0x00, second.id, 0xa1, 0x61, 0xc0, 0x81, 0xa1, 0x61, 0xa1, 0xff]))); // an ask
    const late = [await peer.read(), await peer.read()];
    assert.deepEqual(late.find((message) => message?.kind === Kind.cancel)?.id, stream.id);
    const refused = late.find((message) => message?.kind === Kind.response);
    assert.deepEqual([refused?.id, refused?.error?.code], [second.id, "invalid_frame"]);
    peer.fail(stream.id, scripted("cancelled"));
    peer.answer(second.id, "good");
    await echoing(peer);
  };
  await served([script], async (client) => {
    const calls = [failure(client.call("m"), "invalid_frame"), client.call("m")];
    await failure(take(client.stream("s")), "invalid_frame");
    await calls[0];
    assert.equal(await calls[1], "good");
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

test("protocol_error", async () => {
  const complaint = { code: "invalid_frame", message: "your head" };
  const script: Script = async (peer) => {
    await peer.greet();
    peer.notify("protocol_error", { id: (await peer.request()).id, ...complaint });
    await peer.request();
    peer.notify("protocol_error", { id: null, ...complaint });
  };
  await served([script], async (client) => {
    assert.match((await failure(client.call("m"), "invalid_frame")).message, /your head/);
    assert.match((await failure(client.call("m"), "connection_lost")).message, /your head/);
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
