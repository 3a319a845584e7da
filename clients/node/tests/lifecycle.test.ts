// Connections that come and go, time limits, and what is left when a client is closed.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readlinkSync } from "node:fs";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, connect } from "../src/index.js";
import { socketPath } from "../src/place.js";
import { PACKAGE } from "./support/root.js";
import { echo, echoing, event, failure, limited, type Script, served, serving, TIMEOUT } from "./support/scripted.js";

const SHORT = 300;
let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "dspex-"));
});
after(() => rm(folder, { recursive: true }));
let count = 0;
let fresh = ""; // a path of this test's own
beforeEach(() => {
  fresh = join(folder, `${count++}`);
});

/** Greets, and answers nothing. */
const silent: Script = async (peer) => {
  await peer.greet();
  while ((await peer.read()) !== undefined);
};

function descriptors(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)].filter((target) => target.startsWith("socket:"));
    } catch {
      return [];
    }
  });
}

test("where the socket is", () => {
  const { DSPEX_SOCKET: socket, XDG_RUNTIME_DIR: runtime } = process.env;
  try {
    delete process.env.DSPEX_SOCKET;
    delete process.env.XDG_RUNTIME_DIR;
    assert.equal(socketPath(), "/run/dspex/dspex.sock");
    process.env.XDG_RUNTIME_DIR = "/x";
    assert.equal(socketPath(), "/x/dspex/dspex.sock");
    process.env.DSPEX_SOCKET = "/y";
    assert.equal(socketPath(), "/y");
    assert.equal(socketPath("/z"), "/z");
    assert.throws(() => socketPath(5 as unknown as string), /socket is a path, not a number/);
  } finally {
    Object.assign(process.env, socket === undefined ? {} : { DSPEX_SOCKET: socket });
    Object.assign(process.env, runtime === undefined ? {} : { XDG_RUNTIME_DIR: runtime });
  }
});

test("no sidecar", async () => {
  const stale = spawn(process.execPath, [
    "-e",
    `require("net").createServer().listen(${JSON.stringify(fresh)}, () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  await once(stale, "exit");
  const cases: [path: string, reason: RegExp][] = [
    [`${fresh}-none`, /there is no such socket/],
    [fresh, /nobody listens/],
    ["", /the path is empty/],
    [`/tmp/${"x".repeat(120)}`, /has 125 bytes, 107 are possible/],
  ];
  for (const [socket, reason] of cases) {
    const { message, details } = await failure(connect({ socket }), "connection_lost");
    assert.match(message, reason);
    assert.deepEqual(details, { path: socket });
  }
});

test("waits for a sidecar that comes later", async () => {
  const client = new Client({ socket: fresh });
  const connecting = client.connect({ waitMs: TIMEOUT });
  const calls = [client.call("m", { n: 1 }), client.call("m", { n: 2 })]; // as patient
  await sleep(50);
  await serving([echo], async (real) => {
    await symlink(real, fresh);
    await connecting;
    assert.deepEqual(await client.call("m", { n: 3 }), { n: 3 });
    assert.deepEqual(await Promise.all(calls), [{ n: 1 }, { n: 2 }]);
    await client.close();
  });
});

test("connects again after the sidecar went while idle", async () => {
  const once: Script = async (peer) => {
    await peer.greet();
    peer.answer((await peer.request()).id, "first");
  };
  await served([once, echo], async (client) => {
    const gone = new Promise((resolve) => client.once("disconnect", resolve));
    assert.equal(await client.call("m"), "first");
    assert.equal(((await gone) as { code: string }).code, "connection_lost");
    assert.deepEqual(client.server, {});
    assert.deepEqual(await client.call("m", { n: 1 }), { n: 1 });
  });
});

test("connect waits as long as it is told where a connection was lost, too", async () => {
  const client = new Client({ socket: fresh, reconnectMs: 0 });
  const once: Script = async (peer) => {
    await peer.greet();
  };
  await serving([once], async (real) => {
    await symlink(real, fresh);
    const gone = new Promise((resolve) => client.once("disconnect", resolve));
    await client.connect();
    await gone;
  });
  await rm(fresh);
  const connecting = client.connect({ waitMs: TIMEOUT });
  await serving([echo], async (real) => {
    await symlink(real, fresh);
    await connecting;
    await client.close();
  });
});

test("close settles what is in flight, and leaves nothing", async () => {
  const before = descriptors();
  const read = event();
  const script: Script = async (peer) => {
    await peer.greet();
    for (let n = 0; n < 4; n++) await peer.request();
    read.happen();
    assert.equal(await peer.read(), undefined);
  };
  await serving([script], async (path) => {
    const client = await connect({ socket: path });
    const told: unknown[] = [];
    client.on("disconnect", (error) => told.push(error));
    const calls = [client.call("m"), client.call("m", null, { timeoutMs: 60_000 }), client.call("m")];
    const stream = client.stream("m").next();
    await read.happened;
    const lost = [...calls, stream].map((call) => failure(call, "connection_lost"));
    await client.close();
    await Promise.all(lost);
    assert.match((await failure(client.call("m"), "connection_lost")).message, /the client was closed/);
    await client.close(); // a second time
    assert.deepEqual(told, [undefined]);
  });
  assert.deepEqual(descriptors(), before);
});

test("a signal ends an attempt to connect", async () => {
  const options = { socket: fresh, waitMs: 60_000 };
  await failure(connect({ ...options, signal: AbortSignal.timeout(30) }), "cancelled");
  await failure(connect({ ...options, signal: AbortSignal.abort() }), "cancelled");
});

test("close ends an attempt to connect", async () => {
  const began = event();
  const script: Script = async (peer) => {
    await peer.request();
    began.happen();
    assert.equal(await peer.read(), undefined);
  };
  await serving([script], async (path) => {
    const client = new Client({ socket: path, waitMs: 60_000 });
    const call = failure(client.call("m"), "connection_lost");
    await began.happened;
    await client.close();
    await call;
  });
  const client = new Client({ socket: fresh, waitMs: 60_000 });
  const call = failure(client.call("m"), "connection_lost");
  await client.close();
  assert.match((await call).message, /closed/);
});

describe("time limits hold whatever a call waits for", () => {
  test("a sidecar that does not greet", async () => {
    const script: Script = async (peer) => {
      while ((await peer.read()) !== undefined);
    };
    await served([script], async (client) => {
      const began = performance.now();
      const { message } = await failure(client.call("m", null, { timeoutMs: SHORT }), "connection_lost");
      assert.match(message, /within the call's timeout/);
      assert(performance.now() - began >= SHORT - 1);
    });
  });
  test("a signal, too", async () => {
    const script: Script = async (peer) => {
      while ((await peer.read()) !== undefined);
    };
    await served([script], async (client) => {
      await failure(client.call("m", null, { signal: AbortSignal.timeout(50) }), "cancelled");
    });
  });
  test("a sidecar that reads nothing", async () => {
    const released = event();
    const script: Script = async (peer) => {
      await peer.greet();
      peer.socket.pause();
      await released.happened;
    };
    await served([script], async (client) => {
      await client.connect();
      const began = performance.now();
      const large = { x: Buffer.alloc(8 << 20) };
      const code = (call: Promise<unknown>): Promise<unknown> => call.catch((error: { code: string }) => error.code);
      const call = (): Promise<unknown> => code(client.call("m", large, { timeoutMs: SHORT }));
      const calls = [call(), call()];
      await sleep(0); // the socket is full now
      calls.push(call(), code(client.call("m", null, { signal: AbortSignal.timeout(50) })));
      const codes = await Promise.all(calls);
      assert.deepEqual(codes, ["deadline_exceeded", "deadline_exceeded", "deadline_exceeded", "cancelled"]);
      assert(performance.now() - began >= SHORT - 1);
      released.happen();
    });
  });
  test("a lost sidecar is waited for no longer than the call may take", async () => {
    const once: Script = async (peer) => {
      await peer.greet();
      peer.answer((await peer.request()).id, "first");
    };
    const client = new Client({ socket: fresh, reconnectMs: 600_000 });
    await serving([once], async (real) => {
      await symlink(real, fresh);
      assert.equal(await client.call("m"), "first");
    });
    const waiting = client.call("m"); // patient
    await failure(client.call("m", null, { timeoutMs: 200 }), "connection_lost");
    const settled = failure(waiting, "connection_lost");
    await client.close();
    await settled;
  });
  test("many who wait for a connection wait side by side", async () => {
    const client = new Client({ socket: fresh, waitMs: 1000 });
    const began = performance.now();
    const calls = Array.from({ length: 5 }, () =>
      failure(client.call("m", null, { timeoutMs: 60_000 }), "connection_lost"),
    );
    const errors = await Promise.all([
      ...calls,
      failure(client.call("m", null, { timeoutMs: 100 }), "connection_lost"),
    ]);
    assert.equal(new Set(errors).size, 6);
    assert(performance.now() - began < 4000);
    await client.close();
  });
  for (const timeoutMs of [40 * 86_400_000, 1e15, Number.POSITIVE_INFINITY]) {
    test(`${timeoutMs} ms`, () =>
      served([echo], async (client) => {
        assert.deepEqual(await client.call("m", { n: 1 }, { timeoutMs }), { n: 1 });
      }));
  }
  test("what is no time limit", () =>
    served([], async (client) => {
      for (const timeoutMs of [Number.NaN, "5" as unknown as number]) {
        await assert.rejects(async () => client.call("m", null, { timeoutMs }), /timeoutMs is a number/);
      }
    }));
  test("what connecting took is not left for the call", async () => {
    let told = 0;
    const slow: Script = async (peer) => {
      const read = peer.read.bind(peer);
      await sleep(SHORT); // a sidecar that takes its time
      peer.read = read;
      await peer.greet();
      const { id, meta } = await peer.request();
      told = meta.timeout_ms as number;
      peer.answer(id, "late");
    };
    await served([slow], async (client) => {
      assert.equal(await client.call("m", null, { timeoutMs: TIMEOUT }), "late");
    });
    assert(told > 0 && told <= TIMEOUT - SHORT + 1);
  });
  test("one timer serves all deadlines", () =>
    served([silent], async (client) => {
      await client.connect();
      const took = await Promise.all(
        [300, 100, 200].map(async (timeoutMs) => {
          const began = performance.now();
          await failure(client.call("m", null, { timeoutMs }), "deadline_exceeded");
          return performance.now() - began - timeoutMs;
        }),
      );
      for (const beyond of took) assert(beyond >= -1 && beyond < 2000, `${beyond}`);
    }));
});

test("a flood of calls is answered each with its own", async () => {
  const reversed: Script = async (peer) => {
    await peer.greet();
    for (let batch = 0; batch < 20; batch++) {
      const requests = [];
      for (let n = 0; n < 100; n++) requests.push(await peer.request());
      for (const { id, params } of requests.reverse()) peer.answer(id, params);
    }
  };
  await served([reversed], async (client) => {
    const pads = Array.from({ length: 2000 }, (_, n) => ({ n, pad: "x".repeat((n * 997) % 5000) }));
    assert.deepEqual(await Promise.all(pads.map((params) => client.call("m", params))), pads);
  });
});

describe("the process", () => {
  /** Run a program in a process of its own, and wait for its end. */
  async function run(path: string, source: string): Promise<{ code: number | null; out: string }> {
    const file = `${fresh}.mjs`;
    const library = resolve(PACKAGE, "out/src/index.js");
    await writeFile(file, `import { connect, Client } from ${JSON.stringify(library)};\n${source}`);
    const child = spawn(process.execPath, [file], { env: { ...process.env, DSPEX_SOCKET: path } });
    let out = "";
    child.stdout.on("data", (data) => {
      out += data;
    });
    child.stderr.on("data", (data) => {
      out += data;
    });
    const [code] = await limited(once(child, "close"), `the process does not end; it said ${out}`);
    return { code, out };
  }
  test("ends while an idle client is open", () =>
    serving([echo], async (path) => {
      const source = `const client = await connect();
        console.log(await client.call("m", { n: 1 }, { timeoutMs: 600_000 }));`;
      assert.deepEqual(await run(path, source), { code: 0, out: "{ n: 1 }\n" });
    }));
  test("does not end before its calls have", async () => {
    const slow: Script = async (peer) => {
      await peer.greet();
      const { id } = await peer.request();
      await sleep(200);
      peer.answer(id, "answer");
      await echoing(peer);
    };
    await serving([slow], async (path) => {
      const source = `new Client().call("m").then(console.log);`;
      assert.deepEqual(await run(path, source), { code: 0, out: "answer\n" });
    });
  });
  test("does not end before the deadline of a call that is not answered", () =>
    serving([silent], async (path) => {
      const source = `(await connect()).call("m", null, { timeoutMs: 100 }).catch((error) => console.log(error.code));`;
      assert.deepEqual(await run(path, source), { code: 0, out: "deadline_exceeded\n" });
    }));
  test("waits for a sidecar that comes later", async () => {
    const running = run(fresh, `console.log(await (await connect({ waitMs: 20_000 })).call("m", { n: 1 }));`);
    await serving([echo], async (path) => {
      await symlink(path, fresh);
      assert.deepEqual(await running, { code: 0, out: "{ n: 1 }\n" });
    });
  });
  test("ends with `await using`", () =>
    serving([echo], async (path) => {
      const source = `const client = await connect(); await client[Symbol.asyncDispose](); console.log("closed");`;
      assert.deepEqual(await run(path, source), { code: 0, out: "closed\n" });
    }));
});

test("a server that is there, but no sidecar", async () => {
  const server = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await once(server.listen(fresh), "listening");
  const client = new Client({ socket: fresh });
  await failure(client.connect(), "connection_lost");
  await client.close();
  server.close();
});
