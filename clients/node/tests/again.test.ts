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

describe("calls that may run twice", () => {
  const cut: Script = async (peer) => {
    await peer.greet();
    await peer.request();
    peer.socket.destroy();
  };
  test("go again where the connection was lost, with the same key", async () => {
    const keys: unknown[] = [];
    const noted: Script = async (peer) => {
      await peer.greet();
      keys.push((await peer.request()).meta.idempotency_key);
      peer.socket.destroy();
    };
    const answered: Script = async (peer) => {
      await peer.greet();
      const { id, meta } = await peer.request();
      keys.push(meta.idempotency_key);
      peer.answer(id, "at last");
    };
    await served([noted, answered], async (client) => {
      assert.equal(await client.call("m", null, { retry: "safe" }), "at last");
    });
    assert.equal(typeof keys[0], "string");
    assert.equal(keys[0], keys[1]);
  });
  test("do not go on for ever", () =>
    served([cut, cut, cut], async (client) => {
      await failure(client.call("m", null, { retry: "safe" }), "connection_lost");
    }));
  test("go again where the sidecar says so, after the pause that it asks for", async () => {
    let began = 0;
    const script: Script = async (peer) => {
      await peer.greet();
      began = performance.now();
      const details = { retry_after_ms: 60 };
      peer.fail((await peer.request()).id, scripted("queue_full", { retryable: true, details }));
      await echoing(peer);
    };
    await served([script], async (client) => {
      assert.deepEqual(await client.call("m", { n: 1 }, { retry: "safe" }), { n: 1 });
      assert(performance.now() - began >= 59);
    });
  });
  test("not past their deadline", () =>
    served(
      [
        async (peer) => {
          await peer.greet();
          const details = { retry_after_ms: 60_000 };
          peer.fail((await peer.request()).id, scripted("queue_full", { retryable: true, details }));
        },
      ],
      async (client) => {
        await failure(client.call("m", null, { retry: "safe", timeoutMs: 5000 }), "queue_full");
      },
    ));
  test("others are not run again", () =>
    served([cut, echo], async (client) => {
      await failure(client.call("m"), "connection_lost");
      assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
    }));
});
