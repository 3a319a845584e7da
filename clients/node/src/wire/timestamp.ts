// Instants as the timestamp extension holds them.

const NANOSECONDS = 1_000_000_000;

/** An instant that no `Date` can hold: before 271821 BC or after 275760, or wanted finer than milliseconds. */
export class Timestamp {
  /** Since 1970. */
  readonly seconds: bigint;
  /** 0 to 999,999,999. */
  readonly nanoseconds: number;

  constructor(seconds: bigint | number, nanoseconds = 0) {
    this.seconds = BigInt.asIntN(64, BigInt(seconds));
    this.nanoseconds = nanoseconds;
    if (!Number.isInteger(nanoseconds) || nanoseconds < 0 || nanoseconds >= NANOSECONDS) {
      throw new RangeError(`nanoseconds are 0 to ${NANOSECONDS - 1}, not ${nanoseconds}`);
    }
    if (this.seconds !== BigInt(seconds)) throw new RangeError("seconds take at most 64 bits");
  }
}

/** A `Date`, to the millisecond; undefined where the nanoseconds are no fraction of a second. */
export function instant(seconds: bigint | number, nanoseconds: number): Date | Timestamp | undefined {
  if (nanoseconds >= NANOSECONDS) return undefined;
  const date = new Date(Number(seconds) * 1000 + Math.floor(nanoseconds / 1_000_000));
  return Number.isNaN(date.getTime()) ? new Timestamp(seconds, nanoseconds) : date;
}
