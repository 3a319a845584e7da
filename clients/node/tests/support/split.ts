// What a splitter tells of a stream of bytes, as testdata/wire has it.

import { FrameSplitter, memory } from "../../src/wire/index.js";

type Told = { events: unknown[]; idle: boolean };

function splitter(maxFrame: number): { splitter: FrameSplitter; events: unknown[] } {
  const events: unknown[] = [];
  const sink = {
    body: ({ bytes }: { bytes: Buffer }, start: number, end: number) =>
      events.push({ body: bytes.toString("hex", start, end) }) > 0,
    tooLong: ({ length, kind = null, id = null }: { length: number; kind?: number | null; id?: number | null }) =>
      events.push({ too_long: { length, kind, id } }),
    broken: () => events.push({ broken: "length 0" }),
  };
  return { splitter: new FrameSplitter(sink, maxFrame), events };
}

/** Of one that arrives in portions of so many bytes. */
export function split(stream: Buffer, maxFrame: number, portion: number): Told {
  const { splitter: to, events } = splitter(maxFrame);
  for (let at = 0; at < stream.length; at += portion) to.feed(memory(stream.subarray(at, at + portion)));
  return { events, idle: to.idle };
}

/** Of one that is received right into the room that the splitter has for it. */
export function splitInPlace(stream: Buffer, maxFrame: number): Told {
  const { splitter: to, events } = splitter(maxFrame);
  for (let at = 0; at < stream.length; ) {
    const room = to.room();
    const count = Math.min(room?.length ?? 1000, 1000, stream.length - at);
    if (room === undefined) to.feed(memory(stream.subarray(at, at + count)));
    else to.filled(stream.copy(room, 0, at, at + count));
    at += count;
  }
  return { events, idle: to.idle };
}
