// Calls that go again: after a goaway, and where they may run twice.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { echo, echoing, event, failure, type Script, scripted, served, take } from "./support/scripted.js";

test("goaway is unseen by the caller", async () => {
  const [secondIsThere, oldIsRead] = [event(), event()];
  const first: Script = async (peer) => {
    await peer.greet();
    const old = await peer.request();
    oldIsRead.happen();
    const other = await peer.request();
    peer.notify("goaway", { reason: "test", drain_ms: 1000 });
    peer.answer(other.id, "now it has heard");
    await secondIsThere.happened;
    peer.answer(old.id, "old");
    assert.equal(await peer.read(), undefined); // closed by the client, which needs it no more
  };
  const second: Script = async (peer) => {
    await peer.greet();
    peer.answer((await peer.request()).id, "new");
    secondIsThere.happen();
    await echoing(peer);
  };
  await served([first, second], async (client) => {
    const told: unknown[] = [];
    client.on("connect", () => told.push("connect"));
    client.on("goaway", (notice) => told.push(notice));
    client.on("disconnect", (error) => told.push(["disconnect", error]));
    const old = client.call("old");
    await oldIsRead.happened;
    assert.equal(await client.call("m"), "now it has heard");
    assert.equal(await client.call("new"), "new");
    assert.equal(await old, "old");
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
    assert.deepEqual(told, ["connect", { reason: "test", drain_ms: 1000 }, "connect", ["disconnect", undefined]]);
  });
});

describe("what a draining sidecar refused goes over a new connection", () => {
  const first: Script = async (peer) => {
    await peer.greet();
    const { id } = await peer.request();
    peer.notify("goaway", { reason: "test", drain_ms: 1000 });
    peer.fail(id, scripted("draining", { retryable: true }));
    assert.equal(await peer.read(), undefined);
  };
  test("a call", () =>
    served([first, echo], async (client) => assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 })));
  test("a stream", () =>
    served([first, echo], async (client) => {
      const stream = client.stream("m", { n: 1 });
      assert.deepEqual(await take(stream), []);
      assert.deepEqual(stream.result, { n: 1 });
    }));
});

describe("idempotent calls", () => {
  /** Note the key of a call, and cut the connection. */
  const cutting =
    (keys: unknown[]): Script =>
    async (peer) => {
      await peer.greet();
      keys.push((await peer.request()).meta.idempotency_key);
      peer.socket.destroy();
    };
  test("go again where the connection was lost, with the same key", async () => {
    const keys: unknown[] = [];
    const answered: Script = async (peer) => {
      await peer.greet();
      const { id, meta } = await peer.request();
      keys.push(meta.idempotency_key);
      peer.answer(id, "at last");
    };
    await served([cutting(keys), cutting(keys), answered], async (client) => {
      assert.equal(await client.call("m", null, { idempotent: true }), "at last");
    });
    assert.equal(typeof keys[0], "string");
    assert.deepEqual(keys, [keys[0], keys[0], keys[0]]);
  });
  test("do not go on for ever", async () => {
    const keys: unknown[] = [];
    await served([cutting(keys), cutting(keys), cutting(keys)], async (client) => {
      await failure(client.call("m", null, { idempotent: true, idempotencyKey: "k" }), "connection_lost");
    });
    assert.deepEqual(keys, ["k", "k", "k"]);
  });
  test("others are not sent again, with a key or without", async () => {
    await served([cutting([]), cutting([]), echo], async (client) => {
      await failure(client.call("m", null, { retry: "safe" }), "connection_lost");
      await failure(client.call("m", null, { idempotencyKey: "k" }), "connection_lost");
      assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
    });
  });
  test("streams have no key", () =>
    served([], async (client) => {
      assert.throws(() => client.stream("s", null, { idempotent: true }), TypeError);
      const wrong = { session: 5 as unknown as string };
      const calls = [client.call("s", null, wrong), client.request("s", null, wrong)]; // which throw nothing at once
      for (const call of calls) await assert.rejects(call, TypeError);
    }));
});
