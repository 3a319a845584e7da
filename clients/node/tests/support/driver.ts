// Node's client, steered by another process: the conformance suite (tests/e2e/conformance) is written in Python, and runs
// over this client through tests/e2e/support/node_client.py. What steers is a client of a FakeSidecar, which serves here.
//
// Values of calls go in packed, as byte strings: within the steering calls they would be nested deeper than they are.

import {
  type Adapter,
  type AdapterKind,
  type CallOptions,
  Client,
  type ClientOptions,
  DspexError,
  get_adapter,
  type Offered,
} from "../../src/index.js";
import { Stream } from "../../src/stream.js";
import { FakeSidecar } from "../../src/testing/index.js";
import { decode, encodeResponse, Kind, type WireMap, Writer } from "../../src/wire/index.js";

/** What is called: a thing that has been made here, and of it perhaps a session, and of that perhaps a program. */
type Via = { handle: number; session?: string; token?: string; program?: string };
type Called = ((...args: unknown[]) => unknown) & { [name: string]: unknown };
type Outcome = { value: Buffer } | { handle: number } | { error: WireMap; meta: WireMap } | { misuse: string };

const things = new Map<number, unknown>();
const ending = new Map<number, AbortController>();
const answers = new Map<number, (answer: { value?: Buffer; error?: WireMap }) => void>();
let last = 0;

function keep(thing: unknown): number {
  things.set(++last, thing);
  return last;
}

function pack(value: unknown): Buffer {
  const writer = new Writer();
  encodeResponse(writer, 1, null, value);
  return writer.take().subarray(4);
}

function unpack(body: Buffer): unknown {
  const message = decode(body, true);
  if (message.kind !== Kind.response) throw new Error("expected a packed value");
  return message.result;
}

function find({ handle, session, token, program }: Via): Called {
  let found = things.get(handle) as Client;
  if (session !== undefined) found = found.session(session, { token }) as unknown as Client;
  return (program === undefined ? found : found.program(program)) as unknown as Called;
}

/** What a method of the client's returned, for one who cannot be handed objects. */
function told(value: unknown): Outcome {
  if (value instanceof Stream) return { handle: keep(value) };
  if (typeof value === "function") return { value: pack({ id: (value as unknown as { id: string }).id }) };
  if (value instanceof Client) return { value: pack(null) };
  if (typeof value === "object" && value !== null && "createProgram" in value) {
    const { id, token } = value as unknown as { id: string; token?: string };
    return { value: pack({ id, token }) };
  }
  return { value: pack(value) };
}

async function outcome(work: () => unknown): Promise<Outcome> {
  try {
    return told(await work());
  } catch (error) {
    if (error instanceof DspexError) return { error: error.toWire(), meta: error.meta };
    return { misuse: String(error) };
  }
}

/** What happens here that nobody has called for, in order. */
class News {
  readonly #told: WireMap[] = [];
  #wake = (): void => {};

  tell(news: WireMap): void {
    this.#told.push(news);
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WireMap> {
    for (;;) {
      yield* this.#told.splice(0);
      if (this.#told.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

const news = new News();

/** A function that is offered here, and runs there. */
function relayed(number: number): Offered {
  return (params, asked) =>
    new Promise((resolve, reject) => {
      const ask = keep(asked.client);
      asked.signal.addEventListener("abort", () => news.tell({ ended: ask }));
      answers.set(ask, ({ value, error }) => {
        things.delete(ask);
        answers.delete(ask);
        if (error === undefined) resolve(unpack(value as Buffer));
        else reject(DspexError.fromWire(error));
      });
      const { method, session } = asked;
      news.tell({ ask, signal: keep(asked.signal), offered: number, params: pack(params), method, session });
    });
}

const fake = await FakeSidecar.start({
  methods: {
    client: ({ options }: { options: ClientOptions }) => keep(new Client(options)),
    /** `environment`: what a bridge finds in it, this process being older than the test. */
    adapter: ({ kind, options, environment }: { kind: AdapterKind; options: object; environment: WireMap }) =>
      outcome(() => {
        Object.assign(process.env, environment);
        const adapter: Adapter = get_adapter(kind, options);
        return { adapter: keep(adapter), client: keep(adapter.client) };
      }),
    /** Call a method by its name; the empty name calls the thing itself. `abort` names the call, to be cancelled. */
    invoke: async ({
      via,
      name,
      args,
      options,
      abort,
    }: {
      via: Via;
      name: string;
      args: Buffer[];
      options?: Buffer;
      abort?: number;
    }) => {
      const controller = new AbortController();
      if (abort !== undefined) ending.set(abort, controller);
      const signal = abort === undefined ? {} : { signal: controller.signal };
      const given = args.map((one) => unpack(one) ?? undefined); // nil: what was left out
      if (options !== undefined) given.push({ ...(unpack(options) as CallOptions), ...signal });
      const called = find(via);
      try {
        return await outcome(() => (name === "" ? called(...given) : (called[name] as Called)(...given)));
      } finally {
        if (abort !== undefined) ending.delete(abort);
      }
    },
    abort: ({ abort }: { abort: number }) => ending.get(abort)?.abort(),
    property: ({ handle, name }: { handle: number; name: string }) =>
      outcome(() => (things.get(handle) as WireMap)[name]),
    offer: ({ via, name, offered }: { via: Via; name: string; offered: number }) =>
      keep((find(via).offer as Client["offer"]).call(find(via), name, relayed(offered))),
    take_back: ({ handle }: { handle: number }) => (things.get(handle) as () => void)(),
    answer: ({ ask, ...answer }: { ask: number; value?: Buffer; error?: WireMap }) => answers.get(ask)?.(answer),
    news: () => news[Symbol.asyncIterator](),
  },
});

process.stdout.write(`${fake.path}\n`);
process.stdin.resume().once("end", async () => {
  await fake.close();
  process.exit();
});
