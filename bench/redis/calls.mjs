// One client of one server, under load, as bench/calls.py: calls.mjs CLIENT SOCKET OUTSTANDING SECONDS

const [name, path, outstanding, seconds] = process.argv.slice(2);

const CLIENTS = {
  async dspex() {
    const { connect } = await import("../../clients/node/dist/index.js");
    const client = await connect({ socket: path });
    return { call: () => client.call("ping"), close: () => client.close() };
  },
  async "node-redis"() {
    const { createClient } = await import("@redis/client");
    const client = await createClient({ socket: { path } }).connect();
    return { call: () => client.ping(), close: () => client.close() };
  },
};

const { call, close } = await CLIENTS[name]();
let times = [];

async function caller(end) {
  for (let now = performance.now(); now < end; ) {
    await call();
    const then = now;
    now = performance.now();
    times.push(now - then);
  }
}

async function all(milliseconds) {
  const end = performance.now() + milliseconds;
  await Promise.all(Array.from({ length: Number(outstanding) }, () => caller(end)));
}

await all(300); // the compiler's time
times = [];
const [cpu, began] = [process.cpuUsage(), performance.now()];
await all(seconds * 1000);
const taken = performance.now() - began;
const { user, system } = process.cpuUsage(cpu);
times.sort((a, b) => a - b);
const told = {
  p50_us: times[times.length >> 1] * 1000,
  per_second: (times.length / taken) * 1000,
  cpu_us: (user + system) / times.length,
};
await close();
console.log(JSON.stringify(told));
