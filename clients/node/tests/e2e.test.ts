// The client against the real sidecar with real workers: the application of the conformance suite, and the demo's.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Caller, type Client, connect, type Session, Timestamp } from "../src/index.js";
import { type LM, named, startLM } from "./support/lm.js";
import { failure, TIMEOUT } from "./support/scripted.js";
import { Sidecar } from "./support/sidecar.js";

describe("the application of the conformance suite", () => {
  let sidecar: Sidecar | undefined;
  let client: Client;
  before(async () => {
    sidecar = await Sidecar.start("tests/e2e/applications", "conformance:app");
    client = await connect({ socket: sidecar.path, timeoutMs: TIMEOUT });
  });
  after(async () => {
    await client?.close();
    await sidecar?.stop();
  });

  test("values come back as they went", async () => {
    const values = [
      [null, true, false, 0, -1, 127, 128, -32, -33, -128, -129, 2 ** 31, -(2 ** 31) - 1, 2 ** 53 - 1, -(2 ** 53) + 1],
      [2n ** 53n, -(2n ** 53n), 2n ** 64n - 1n, -(2n ** 63n), 0.1, -0, Number.POSITIVE_INFINITY, 5e-324, Number.NaN],
      ["", "grüße, 世界 🌍 \x00 \u202e e\u0301", "x".repeat(70_000), Buffer.alloc(0), Buffer.alloc(80_000, 7)],
      [[], {}, [[], {}, [null]], { "": 1, "a b": { ü: [1, { deep: Buffer.from([255]) }] } }],
      JSON.parse('{ "__proto__": 1, "constructor": 2, "toString": { "__proto__": {} } }'),
      [new Date("2026-11-24T05:30:00.123Z"), new Date("1969-12-31T23:59:59.999Z"), new Date("2600-01-01T00:00:00Z")],
      Array.from({ length: 10_000 }, (_, n) => n),
    ];
    for (const method of ["echo", "echo_async", "echo_inline"]) {
      for (const value of values) assert.deepStrictEqual(await client.call(method, { value }), value);
    }
    // Finer than a Date: the worker has it to the microsecond, what comes back is to the millisecond.
    const value = new Timestamp(1, 1_999_000);
    assert.deepStrictEqual(await client.call("echo", { value }), new Date(1001));
    await using session = await client.createSession({ state: { all: values } });
    assert.deepStrictEqual((await session.state()).all, values);
  });

  test("meta goes there and back", async () => {
    const reply = await client.request<{ left: number }>("about", {}, { timeoutMs: 20_000, app: { a: [1] } });
    assert.deepEqual(reply.meta.app, { seen: { a: [1] } });
    assert.deepEqual(reply.meta.usage, { lm_calls: 2 });
    assert.match(reply.meta.worker as string, /^worker_/);
    assert(reply.result.left > 10 && reply.result.left <= 20);
    assert.equal(client.server.server?.name, "dspex-sidecar");
  });

  test("errors", async () => {
    const boom = await failure(client.call("boom"), "program_error");
    assert.deepEqual([boom.details.type, boom.retryable], ["KeyError", false]);
    assert.match(boom.meta.worker as string, /^worker_/);
    const problems = await failure(client.call("typed", { b: [1, "2"], c: "z", e: 1 }), "invalid_params");
    const paths = (problems.details.errors as { path: string }[]).map(({ path }) => path);
    assert.deepEqual(paths.sort(), ["a", "b[1]", "c", "e"]);
    await failure(client.call("nothing"), "unknown_method");
    assert.equal((await failure(client.call("unpackable"), "not_serializable")).details.path, "result.a[1].b");
    await failure(client.session("none").info(), "session_not_found");
    const { details } = await failure(client.call("echo", { value: Buffer.alloc(17 << 20) }), "frame_too_large");
    assert.equal(details.limit, 16 << 20);
  });

  test("streams", async () => {
    for (const method of ["count", "count_async"]) {
      const stream = client.stream<number>(method, { n: 1000 }, { credit: 7 });
      let next = 0;
      for await (const n of stream) assert.equal(n, next++);
      assert.deepEqual([next, stream.result], [1000, method === "count" ? "1000 in all" : null]);
    }
    const failing = client.stream("count_and_fail", { n: 2 });
    assert.deepEqual([(await failing.next()).value, (await failing.next()).value], [0, 1]);
    await failure(failing.next(), "program_error");
    await failure(client.call("count", { n: 1 }), "invalid_params");
    for await (const _ of client.stream("count", { n: 100_000_000, name: "left" })) break;
    assert.deepEqual(await client.call("echo", { value: 1 }), 1);
  });

  test("sessions", async () => {
    await using session = await client.createSession({ labels: { of: "node" } });
    const calls = Array.from({ length: 20 }, (_, value) => session.call<number>("append", { key: "list", value }));
    assert.deepEqual(
      await Promise.all(calls),
      Array.from({ length: 20 }, (_, n) => n + 1),
    );
    await session.update({ set: { more: 1 }, delete: ["begun"] });
    const info = await session.info();
    assert.deepEqual(info.state, { list: Array.from({ length: 20 }, (_, n) => n), more: 1 });
    assert.deepEqual(info.labels, { of: "node" });
    await failure(client.createSession({ id: session.id }), "session_exists");
    const mine = await client.createSession({ token: true });
    await failure(client.session(mine.id, { token: "wrong" }).info(), "session_not_found");
    assert.deepEqual((await client.session(mine.id, { token: mine.token }).info()).state, {});
    await mine.end();
  });

  test("cancels and deadlines reach the worker", async () => {
    for (const [options, code] of [
      [{ timeoutMs: 100 }, "deadline_exceeded"],
      [{ signal: AbortSignal.timeout(100) }, "cancelled"],
    ] as const) {
      await failure(client.call("wait_quietly", null, options), code);
    }
    type Calls = { calls: { method: string }[] };
    while ((await client.call<Calls>("sidecar.calls")).calls.some(({ method }) => method === "wait_quietly"));
  });

  test("functions that the client offers, three levels deep", async () => {
    client.offer("level", async ({ value }, asked) => {
      if (value === 3) return "bottom";
      return { [value]: await asked.client.call("ask", { question: "level", value: value + 1 }) };
    });
    assert.deepEqual(await client.call("ask", { question: "level", value: 0 }), { 0: { 1: { 2: "bottom" } } });
    client.offer("fails", () => {
      throw new RangeError("out of it");
    });
    for (const method of ["ask", "ask_in_thread"]) {
      const { message } = await failure(client.call(method, { question: "fails", value: 1 }), "program_error");
      assert.match(message, /out of it/);
      await failure(client.call(method, { question: "unheard of", value: 1 }), "unknown_method");
    }
  });

  test("a cancel at each level of functions ends what is below it, and nothing above", async () => {
    for (let at = 0; at <= 3; at++) {
      const controller = new AbortController();
      const aborted = new Map<number, Promise<unknown>>();
      const down = async (caller: Caller, value: number): Promise<unknown> => {
        const { signal } = value === at ? controller : {};
        const call = caller.call("ask", { question: "deep", value }, { signal });
        if (value !== at) return { [value]: await call };
        await failure(call, "cancelled");
        return "cancelled here";
      };
      const takeBack = client.offer("deep", async ({ value }, { signal, client: inner }) => {
        if (value >= at) aborted.set(value, new Promise((resolve) => signal.addEventListener("abort", resolve)));
        if (value < 3) return down(inner, value + 1);
        controller.abort();
        return aborted.get(3);
      });
      let expected: unknown = "cancelled here";
      for (let value = at - 1; value >= 0; value--) expected = { [value]: expected };
      assert.deepEqual(await down(client, 0), expected);
      assert.deepEqual([...aborted.keys()].sort(), [0, 1, 2, 3].slice(at));
      await Promise.all(aborted.values());
      takeBack();
    }
  });

  test("a call in the session of the call that asks is refused, not waited for", async () => {
    await using session = await client.createSession();
    session.offer("again", (_, asked) => asked.client.session(session.id).call("put", { key: "a", value: 1 }));
    await failure(session.call("ask", { question: "again", value: 1 }), "session_busy");
  });

  test("thousands of calls at once", async () => {
    const calls = Array.from({ length: 1000 }, (_, value) => client.call("echo_inline", { value }));
    assert.deepEqual(
      await Promise.all(calls),
      Array.from({ length: 1000 }, (_, n) => n),
    );
  });

  test("a sidecar that ends and comes again", async () => {
    const another = await Sidecar.start("tests/e2e/applications", "conformance:app");
    await using patient = await connect({ socket: another.path });
    const told: string[] = [];
    patient.on("goaway", () => told.push("goaway")).on("disconnect", () => told.push("disconnect"));
    assert.equal(await patient.call("echo", { value: 1 }), 1);
    await another.stop();
    await failure(patient.call("echo", { value: 1 }, { timeoutMs: 100 }), "connection_lost");
    assert.deepEqual(told, ["goaway", "disconnect"]);
  });
});

describe("the demo's application", () => {
  let sidecar: Sidecar;
  let client: Client;
  let session: Session;
  let lm: LM;
  before(async () => {
    const values = { answer: "a process beside another", names: ["Ada"], places: ["London"], explanation: ["so"] };
    lm = await startLM((prompt) => usingTools(prompt) ?? named(values)(prompt));
    const model = `[models.local]\nmodel = "openai/fake"\napi_base = "${lm.base}"\napi_key = "env:LM_KEY"\nadapter = "json"\n`;
    sidecar = await Sidecar.start("examples/demo", "app:app", model);
    client = await connect({ socket: sidecar.path, timeoutMs: TIMEOUT });
    session = await client.createSession();
    await session.configureLM("local");
  });
  after(async () => {
    lm.close();
    await session?.end();
    await client?.close();
    await sidecar?.stop();
  });

  test("its methods", async () => {
    assert.deepEqual(await client.call("count_words", { text: "three short words" }), { words: 3, different: 3 });
    assert.equal(await session.call("remember", { note: "a" }), 1);
    assert.equal(await session.call("remember", { note: "b" }), 2);
    const sentences = [];
    for await (const sentence of client.stream("sentences", { text: "One. Two. Three." })) sentences.push(sentence);
    assert.deepEqual(sentences, ["One.", "Two.", "Three."]);
  });

  test("programs", async () => {
    const qa = await session.createProgram<{ question: string }, { answer: string }>("qa", "question -> answer: str");
    assert.deepEqual(await qa({ question: "What is a sidecar?" }), { answer: "a process beside another" });
    const { result, meta } = await session.program("digest").request({ text: "Ada was born in London." });
    assert.deepEqual(result, { names: ["Ada"], places: ["London"], explanation: ["so"] });
    assert.equal((meta.usage as { lm_calls: number }).lm_calls, 2);
    assert.equal((await qa.info()).scope, "session");
    assert((await session.programs()).some(({ program }) => program === "qa"));
    const stream = qa.stream({ question: "What else is one?" });
    let text = "";
    for await (const item of stream) if (item.type === "delta") text += item.text;
    assert.equal(text, "a process beside another");
    assert.equal(stream.result.answer, text);
    await failure(qa({} as { question: string }), "invalid_params");
    await failure(session.createProgram("qa", "question -> answer"), "program_exists");
    await failure(session.createProgram("bad", "question ->"), "invalid_signature");
    await qa.delete();
    await failure(qa({ question: "?" }), "program_not_found");
  });

  const price = {
    name: "price",
    schema: { type: "object", properties: { item: { type: "string" } }, required: ["item"] },
  };

  test("tools of a ReAct program that are functions here", async () => {
    await using shop = await client.createSession();
    await shop.configureLM("local");
    const program = await shop.createProgram<{ question: string }, { answer: string; trajectory: object }>(
      undefined,
      "question -> answer",
      { module: "react", tools: [price] },
    );
    await failure(program({ question: "What is tea?" }), "unknown_method");
    const told: unknown[] = [];
    shop.offer("price", async ({ item }, { session, method }) => {
      told.push([item, session, method]);
      if (item !== "tea") throw new RangeError("not sold here");
      return { euros: 3 };
    });
    const { answer } = await program({ question: "What is tea?" });
    assert.equal(answer, '{"euros": 3}');
    assert.equal((await program({ question: "What is gold?" })).answer, "Execution error in price: not sold here");
    assert.match((await program({ question: "What is 5?" })).answer, /5 is not of type 'string'/);
    const again = [shop.id, "price"];
    assert.deepEqual(told, [
      ["tea", ...again],
      ["gold", ...again],
    ]);
  });

  test("a tool whose call is cancelled, or takes too long, hears of it", async () => {
    await using shop = await client.createSession();
    await shop.configureLM("local");
    const program = await shop.createProgram(undefined, "question -> answer", { module: "react", tools: [price] });
    const controller = new AbortController();
    const aborted: Promise<unknown>[] = [];
    shop.offer("price", (_, { signal }) => {
      aborted.push(new Promise((resolve) => signal.addEventListener("abort", resolve)));
      if (aborted.length === 1) controller.abort();
      return aborted.at(-1);
    });
    await failure(program({ question: "What is tea?" }, { signal: controller.signal }), "cancelled");
    await failure(program({ question: "What is tea?" }, { timeoutMs: 300 }), "deadline_exceeded");
    assert.equal(aborted.length, 2);
    await Promise.all(aborted);
  });
});

/** An LM that asks for the price of what the question names, and gives as the answer what it was told. */
function usingTools(prompt: string): Record<string, unknown> | undefined {
  const told = /\[\[ ## observation_0 ## \]\]\n(.*?)\n\n/s.exec(prompt)?.[1];
  if (!prompt.includes("next_tool_name")) return told === undefined ? undefined : { reasoning: "so", answer: told };
  if (told !== undefined) return { next_thought: "done", next_tool_name: "finish", next_tool_args: {} };
  const item = /What is (\w+)\?/.exec(prompt)?.[1];
  return { next_thought: "ask", next_tool_name: "price", next_tool_args: { item: item === "5" ? 5 : item } };
}
