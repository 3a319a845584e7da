// A stream of items.

import { DspexError } from "./errors.js";
import { Exchange, type Outgoing } from "./exchange.js";
import type { Lines } from "./lines.js";
import type { WireMap } from "./wire/messages.js";

type Step<T> = IteratorResult<T, undefined>;
type Waiter<T> = { resolve: (step: Step<T>) => void; reject: (error: DspexError) => void };

const END: Step<never> = Object.freeze({ value: undefined, done: true });

/** The call of a stream: keeps what came until it is taken. */
class Items extends Exchange {
  readonly items: unknown[] = [];
  over = false;
  readonly #wake: () => void;

  constructor(lines: Lines, outgoing: Outgoing, wake: () => void) {
    super(lines, outgoing);
    this.#wake = wake;
  }

  override item(item: unknown): void {
    this.items.push(item);
    this.#wake();
  }

  protected ended(): void {
    this.over = true;
    this.#wake();
  }
}

/**
 * The items of a streaming call, in order, for `for await`. The request is sent when the first is asked for.
 *
 * Leaving the loop early cancels the call. Items promise nothing until the stream has ended without an error.
 */
export class Stream<T = unknown, R = unknown> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #call: Items;
  readonly #window: number;
  readonly #waiting: Waiter<T>[] = [];
  #begun = false;
  #taken = 0; // since more was asked for
  #next = 0; // the first item that was not taken
  #thrown = false;
  #closed = false;

  /** @internal */
  constructor(lines: Lines, outgoing: Outgoing) {
    this.#window = outgoing.credit;
    this.#call = new Items(lines, outgoing, () => this.#serve());
  }

  /** What the method returned. Throws DspexError where it failed, TypeError before the end. */
  get result(): R {
    return this.#ended().result as R;
  }

  /** What the sidecar said of the call: `worker`, `queue_us`, `run_us`, `usage`. Throws as `result` does. */
  get meta(): WireMap {
    return this.#ended().meta;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Step<T>> {
    if (this.#closed) return Promise.resolve(END);
    if (!this.#begun) {
      this.#begun = true;
      this.#call.begin();
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#serve();
    });
  }

  /** What leaving a `for await` loop does. */
  async return(): Promise<Step<T>> {
    await this.close();
    return END;
  }

  /** Cancel the call if it has not ended. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#begun && !this.#call.over) {
      this.#call.cancel(new DspexError("cancelled", "the stream was left", { details: { ended_by: "caller" } }));
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #serve(): void {
    const { items } = this.#call;
    while (this.#waiting.length > 0 && (this.#next < items.length || this.#call.over)) {
      const waiter = this.#waiting.shift() as Waiter<T>;
      if (this.#next < items.length) waiter.resolve({ value: this.#take(items), done: false });
      else this.#finish(waiter);
    }
  }

  #take(items: unknown[]): T {
    const item = items[this.#next] as T;
    items[this.#next++] = undefined;
    if (this.#next === items.length) {
      items.length = 0;
      this.#next = 0;
    }
    this.#taken++;
    if (this.#taken * 2 >= this.#window) {
      this.#call.grant(this.#taken);
      this.#taken = 0;
    }
    return item;
  }

  #finish({ resolve, reject }: Waiter<T>): void {
    const { error } = this.#call;
    if (error === undefined || this.#thrown) {
      resolve(END);
    } else {
      this.#thrown = true;
      reject(error);
    }
  }

  #ended(): Items {
    if (!this.#call.over) throw new TypeError("the stream has not ended: take all its items first");
    if (this.#call.error !== undefined) throw this.#call.error;
    return this.#call;
  }
}
