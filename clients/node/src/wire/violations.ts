// What can be wrong with received bytes, by what it costs the sender.

/** Received bytes that break docs/protocol.md. */
export abstract class Violation extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** Framing is broken: the connection ends, after a `protocol_error`. */
export class StructureError extends Violation {}

/** What is wrong with a frame whose structure is sound. */
abstract class FrameError extends Violation {
  /** Which call it belongs to; undefined where that could not be read, or there is none. */
  readonly id: number | undefined;
  readonly kind: number | undefined;

  constructor(message: string, id?: number, kind?: number) {
    super(message);
    this.id = id;
    this.kind = kind;
  }
}

/** The head cannot be read: answered with a `protocol_error`, and the connection goes on. */
export class EnvelopeError extends FrameError {}

/** A value breaks the rules on content: the call `id` is answered `invalid_frame` (undefined: a notification). */
export class ContentError extends FrameError {}
