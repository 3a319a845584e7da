// Package wire owns the protocol of docs/protocol.md: frames on a stream, the structure and content rules of their
// values, envelopes, meta, limits and error codes. It knows nothing of connections' owners, pools or sessions, and never
// decodes a payload that only passes through.
package wire
