package wire

// Limits of protocol version 1. docs/protocol.md holds the same table.
const (
	Protocol = 1

	MaxHead      = 64 << 10 // bytes before the payload
	MaxDepth     = 64       // arrays and maps around any value, the frame's own array included
	MaxValues    = 4 << 20  // values in one frame, keys and containers included
	MaxID        = 1<<53 - 1
	MaxMethod    = 128
	MaxSessionID = 128
	MaxStateKey  = 256
	MaxReason    = 256
	MaxTrace     = 128

	MaxIdempotencyKey = 256
	MaxCredit         = 1<<31 - 1
	MinFrameLimit     = 64 << 10 // the least max_frame that a side may name
	DefaultFrame      = 16 << 20
)

// headerSize is the length prefix of a frame.
const headerSize = 4
