// How long to wait between attempts.

const FIRST = 20; // milliseconds
const LONGEST = 1000;

/** Milliseconds before each further attempt: doubling, and each with full jitter, so that clients spread. */
export class Backoff {
  #longest = FIRST;

  next(): number {
    const delay = FIRST / 2 + Math.random() * (this.#longest - FIRST / 2);
    this.#longest = Math.min(2 * this.#longest, LONGEST);
    return delay;
  }
}
