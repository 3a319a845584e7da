/**
 * The dspex protocol without sockets: bytes in, messages out, and back. docs/protocol.md is its text.
 *
 * Nothing here keeps state but a `FrameSplitter` and a `Writer`.
 */

export { decode, decodeFrom, decodeValue, type Memory, memory } from "./decode.js";
export {
  encodeCancel,
  encodeCredit,
  encodeError,
  encodeItem,
  encodeNotification,
  encodeRequest,
  encodeResponse,
  packValue,
} from "./encode.js";
export * from "./limits.js";
export type * from "./messages.js";
export { Kind } from "./messages.js";
export { checkRequestMeta, isSessionId } from "./meta.js";
export { outline, scan, skipValue } from "./scan.js";
export { FrameSplitter, type Sink, type TooLong } from "./splitter.js";
export { Timestamp } from "./timestamp.js";
export { ContentError, EnvelopeError, StructureError, Violation } from "./violations.js";
export { Writer } from "./writer.js";
