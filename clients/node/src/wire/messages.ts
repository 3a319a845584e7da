// The frames of the protocol as values. `meta` and `params` of nil are `{}`.

/** A map as MessagePack holds it: keys are text. */
export type WireMap = { [key: string]: unknown };

/** The first item of a frame. */
export const Kind = {
  request: 0,
  response: 1,
  notification: 2,
  item: 3,
  cancel: 4,
  credit: 5,
  change: 6,
  /** Of a kind that this version does not know: ignored and counted. */
  unknown: -1,
} as const;

export type Request = { kind: 0; id: number; method: string; meta: WireMap; params: WireMap };
/** `error` is null where the call succeeded; then `result` is what it returned. */
export type Response = { kind: 1; id: number; meta: WireMap; error: WireMap | null; result: unknown };
export type Notification = { kind: 2; method: string; meta: WireMap; params: WireMap };
export type Item = { kind: 3; id: number; meta: WireMap; item: unknown };
export type Cancel = { kind: 4; id: number; reason: string | null };
export type Credit = { kind: 5; id: number; n: number };
export type Change = { kind: 6; id: number; changes: unknown };
export type Unknown = { kind: -1 };

export type Message = Request | Response | Notification | Item | Cancel | Credit | Change | Unknown;
