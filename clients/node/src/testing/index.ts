/**
 * A fake sidecar for the tests of applications, on a real Unix socket.
 *
 *     const fake = await FakeSidecar.start({ programs: { qa: ({ question }) => ({ answer: `${question}!` }) } });
 *     const client = await connect({ socket: fake.path });
 */

export { type FakeCall, type FakeMethod, type FakeOptions, FakeSidecar, type Seen } from "./fake.js";
export { Peer } from "./peer.js";
