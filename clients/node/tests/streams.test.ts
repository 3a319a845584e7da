// Streams against a scripted server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeItem, Kind } from "../src/wire/index.js";
import { echoing, failure, type Script, scripted, served, take } from "./support/scripted.js";

test("a stream takes credit and gives it", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id, meta } = await peer.request();
    let credit = meta.stream as number;
    assert.equal(credit, 4);
    for (let sent = 0; sent < 20; credit--) {
      while (credit === 0) {
        const grant = await peer.read();
        assert(grant?.kind === Kind.credit && grant.id === id);
        credit += grant.n;
        assert(credit <= 4);
      }
      peer.item(id, sent++);
    }
    peer.answer(id, "end", { worker: "w" });
    await echoing(peer);
  };
  await served([script], async (client) => {
    const stream = client.stream<number>("s", { a: 1 }, { credit: 4 });
    assert.throws(() => stream.result, /not ended/);
    assert.deepEqual(
      await take(stream),
      Array.from({ length: 20 }, (_, n) => n),
    );
    assert.deepEqual([stream.result, stream.meta], ["end", { worker: "w" }]);
    assert.deepEqual(await stream.next(), { value: undefined, done: true });
  });
});

test("leaving a stream cancels it", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.item(id, 0);
    assert.deepEqual(await peer.read(), { kind: Kind.cancel, id, reason: null });
    peer.item(id, 1); // was on its way
    peer.fail(id, scripted("cancelled"));
    await echoing(peer);
  };
  await served([script], async (client) => {
    const stream = client.stream("s");
    for await (const item of stream) {
      assert.equal(item, 0);
      break;
    }
    assert.deepEqual(await stream.next(), { value: undefined, done: true });
    assert.throws(() => stream.result, { code: "cancelled" });
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  });
});

test("streams that fail", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    let { id } = await peer.request();
    peer.item(id, 0);
    peer.fail(id, scripted("program_error", { details: { type: "ValueError" } }));
    ({ id } = await peer.request());
    peer.raw(peer.frames((to) => [0, 1, 2, 3].forEach((n) => void encodeItem(to, id, n)))); // one more than was asked for
    assert.deepEqual(await peer.read(), { kind: Kind.credit, id, n: 1 });
    assert.equal((await peer.read())?.kind, Kind.cancel);
    peer.fail(id, scripted("cancelled"));
    await echoing(peer);
  };
  await served([script], async (client) => {
    const stream = client.stream("s");
    assert.deepEqual(await stream.next(), { value: 0, done: false });
    await failure(stream.next(), "program_error");
    assert.deepEqual(await stream.next(), { value: undefined, done: true });
    const { message } = await failure(take(client.stream("s", null, { credit: 2 })), "invalid_frame");
    assert.match(message, /credit/);
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  });
});

test("several may ask a stream for its next item at once", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.item(id, 0);
    peer.item(id, 1);
    peer.answer(id, null);
  };
  await served([script], async (client) => {
    const stream = client.stream("s");
    const steps = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()]);
    assert.deepEqual(
      steps.map((step) => step.value),
      [0, 1, undefined, undefined],
    );
  });
});
