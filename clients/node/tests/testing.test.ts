// The fake sidecar that users' tests have.

import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createConnection } from "node:net";
import { test } from "node:test";
import { connect, DspexError } from "../src/index.js";
import { FakeSidecar } from "../src/testing/index.js";
import { event, failure, take } from "./support/scripted.js";

test("methods, errors, streams and what was asked for", async () => {
  await using fake = await FakeSidecar.start({
    methods: {
      add: ({ a, b }) => a + b,
      fail: () => {
        throw new DspexError("queue_full", "busy");
      },
      async *count({ n }) {
        for (let i = 0; i < n; i++) yield i;
        return "all";
      },
      *plain({ n }) {
        for (let i = 0; i < n; i++) yield i;
        return "all";
      },
      async *untidy() {
        try {
          for (;;) yield 1;
        } finally {
          await Promise.reject(new Error("which ends no test"));
        }
      },
    },
  });
  await using client = await connect({ socket: fake.path });
  assert.deepEqual(await client.call("ping"), {});
  assert.equal(await client.call("add", { a: 1, b: 2 }), 3);
  assert.equal((await failure(client.call("fail"), "queue_full")).retryable, true);
  await failure(client.call("nothing"), "unknown_method");
  await failure(client.call("count", { n: 1 }), "invalid_params");
  await failure(take(client.stream("add", { a: 1, b: 2 })), "invalid_params");
  for (const method of ["count", "plain"]) {
    const stream = client.stream<number>(method, { n: 10 }, { credit: 2 });
    let sum = 0;
    for await (const n of stream) sum += n;
    assert.deepEqual([sum, stream.result], [45, "all"]);
  }
  for await (const _ of client.stream("untidy", null, { credit: 2 })) break;
  assert.deepEqual(fake.requests[1], { method: "add", params: { a: 1, b: 2 }, meta: {} });
  fake.method("add", () => "otherwise");
  assert.equal(await client.call("add"), "otherwise");
});

test("sessions and programs", async () => {
  await using fake = await FakeSidecar.start({
    methods: {
      remember: ({ note }, { state }) => {
        state.note = note;
      },
    },
    programs: { qa: ({ question }) => ({ answer: `${question}!` }) },
  });
  fake.program("chatty", async function* ({ question }) {
    yield { type: "delta", field: "answer", text: "so" };
    return { answer: `${question}?` };
  });
  await using client = await connect({ socket: fake.path });
  const session = await client.createSession({ id: "s", state: { a: 1, b: 2 } });
  await failure(client.createSession({ id: "s" }), "session_exists");
  await session.call("remember", { note: "x" });
  await session.update({ set: { c: 3 }, delete: ["b"] });
  assert.deepEqual(await session.state(), { a: 1, c: 3, note: "x" });
  assert.deepEqual(await session.program("qa")({ question: "well" }), { answer: "well!" });
  const made = await session.createProgram("chatty", "question -> answer");
  const stream = made.stream({ question: "well" });
  const deltas = [];
  for await (const delta of stream) deltas.push(delta);
  assert.deepEqual([deltas.length, stream.result], [1, { answer: "well?" }]);
  assert.deepEqual(await made({ question: "well" }), { answer: "well?" });
  await failure(client.program("none")({}), "program_not_found");
  await session.reset();
  assert.deepEqual(await session.state(), {});
  await session.end();
  await session.end();
  await failure(session.info(), "session_not_found");
});

test("functions that the client offers", async () => {
  await using fake = await FakeSidecar.start({ methods: { outer: ({ x }, { ask }) => ask("double", { x }) } });
  await using client = await connect({ socket: fake.path });
  await failure(client.call("outer", { x: 2 }), "unknown_method");
  client.offer("double", ({ x }) => 2 * x);
  assert.equal(await client.call("outer", { x: 2 }), 4);
});

test("a code that is called as what every object has is not retryable", () => {
  assert.deepEqual(
    ["constructor", "toString", "draining"].map((code) => new DspexError(code).retryable),
    [false, false, true],
  );
});

test("all that asks the sidecar takes a signal", async () => {
  await using fake = await FakeSidecar.start();
  await using client = await connect({ socket: fake.path });
  const session = client.session("s");
  const program = session.program("p");
  const options = { signal: AbortSignal.abort() };
  for (const call of [
    client.createSession({}, options),
    session.info(options),
    session.state(options),
    session.update({}, options),
    session.reset(options),
    session.configureLM("local", options),
    session.createProgram("p", "a -> b", {}, options),
    session.programs(options),
    session.end(options),
    program.info(options),
    program.delete(options),
  ]) {
    await failure(call, "cancelled");
  }
  assert.deepEqual(fake.requests, []);
});

test("what a method asked for ends with its call, and with the client", async () => {
  const [asked, ended] = [
    [event(), event()],
    [event(), event()],
  ];
  const told: (DspexError | undefined)[] = [];
  let calls = 0;
  await using fake = await FakeSidecar.start({
    methods: {
      outer: async (_, { ask }) => {
        const call = calls++;
        await ask("forever").catch((error) => told.push(error));
        ended[call]?.happen();
      },
    },
  });
  await using client = await connect({ socket: fake.path });
  client.offer("forever", (_, { signal }) => {
    asked[calls - 1]?.happen();
    return new Promise((resolve) => signal.addEventListener("abort", resolve));
  });
  const controller = new AbortController();
  const cancelled = failure(client.call("outer", null, { signal: controller.signal }), "cancelled");
  await asked[0]?.happened;
  controller.abort();
  await Promise.all([cancelled, ended[0]?.happened]);
  const lost = failure(client.call("outer"), "connection_lost");
  await asked[1]?.happened;
  fake.disconnect();
  await Promise.all([lost, ended[1]?.happened]);
  assert.deepEqual(
    told.map((error) => error?.code),
    ["cancelled", "connection_lost"],
  );
});

test("cancels, goaway and lost connections", async () => {
  const began = event();
  await using fake = await FakeSidecar.start({
    methods: {
      wait: (_, { signal }) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => reject(new Error("aborted")));
          began.happen();
        }),
      async *forever() {
        for (;;) yield 1;
      },
    },
  });
  await using client = await connect({ socket: fake.path });
  const controller = new AbortController();
  const call = failure(client.call("wait", null, { signal: controller.signal }), "cancelled");
  await began.happened;
  controller.abort();
  await call;
  for await (const one of client.stream("forever", null, { credit: 2 })) {
    assert.equal(one, 1);
    break;
  }
  const goaway = new Promise((resolve) => client.once("goaway", resolve));
  const kept = failure(client.call("wait"), "connection_lost");
  fake.goaway();
  await goaway;
  assert.deepEqual(await client.call("ping"), {});
  const both = new Promise<void>((resolve) => {
    let left = 2;
    client.on("disconnect", () => --left === 0 && resolve());
  });
  fake.disconnect();
  await Promise.all([kept, both]);
  assert.deepEqual(await client.call("ping"), {});
});

test("it outlives what is no client, and leaves nothing", async () => {
  const fake = await FakeSidecar.start();
  for (const bytes of ["00000000", "00000001c1", "00000007950001a161c080"]) {
    const socket = createConnection(fake.path);
    socket.write(Buffer.from(bytes, "hex"));
    await once(socket.resume(), "close");
  }
  const client = await connect({ socket: fake.path });
  assert.deepEqual(await client.call("ping"), {});
  await client.close();
  await fake.close();
  assert(!existsSync(fake.path));
});
