package keeper

// The control channel is a SOCK_SEQPACKET socket pair: one message a packet, each a MessagePack map with one of the
// parts below. Descriptors travel beside their message (SCM_RIGHTS). Both ends are the same binary, so the form may
// change with any release.
type message struct {
	ID uint64 `msgpack:"id,omitempty"` // of a request and of its answer; 0 in what wants no answer

	// From the sidecar.
	Start  *startRequest  `msgpack:"start,omitempty"`
	Adopt  *adoptRequest  `msgpack:"adopt,omitempty"`
	Expect *expectRequest `msgpack:"expect,omitempty"`
	Signal *signalRequest `msgpack:"signal,omitempty"`
	Kill   *killRequest   `msgpack:"kill,omitempty"`

	// From the keeper.
	Ready   *readyNotice   `msgpack:"ready,omitempty"`
	Answer  *answer        `msgpack:"answer,omitempty"`
	Exited  *exitedNotice  `msgpack:"exited,omitempty"`
	Cleared *clearedNotice `msgpack:"cleared,omitempty"`
	Trouble *troubleNotice `msgpack:"trouble,omitempty"`
}

// startRequest comes with its descriptors in this order: standard output and standard error where given, then those
// that the child has from 3 on.
type startRequest struct {
	Argv   []string `msgpack:"argv"`
	Env    []string `msgpack:"env"`
	Dir    string   `msgpack:"dir"` // absolute
	Stdout bool     `msgpack:"stdout"`
	Stderr bool     `msgpack:"stderr"`
}

// adoptRequest claims a descendant that some child forked, so that its end is reported like a started child's.
type adoptRequest struct {
	PID int `msgpack:"pid"`
}

// expectRequest says that a process is about to be forked that will be adopted, or that this is over.
type expectRequest struct {
	More int `msgpack:"more"` // 1 or -1
}

type signalRequest struct {
	PID    int `msgpack:"pid"`
	Signal int `msgpack:"signal"`
}

// killRequest ends a child and all that belongs to it.
type killRequest struct {
	PID int `msgpack:"pid"`
}

// readyNotice is the first message: the keeper takes requests.
type readyNotice struct{}

// answer settles a start or an adopt. What failed is in Path, Reason and Errno.
type answer struct {
	PID    int    `msgpack:"pid,omitempty"`
	Path   string `msgpack:"path,omitempty"`
	Reason string `msgpack:"reason,omitempty"`
	Errno  int    `msgpack:"errno,omitempty"`
}

// exitedNotice says how a started or adopted process ended. It comes after the answer that named the process.
type exitedNotice struct {
	PID    int   `msgpack:"pid"`
	Code   int   `msgpack:"code"`
	Signal int   `msgpack:"signal"` // 0: it exited by itself with Code
	Core   bool  `msgpack:"core"`
	MaxRSS int64 `msgpack:"max_rss"` // bytes
}

// clearedNotice says that processes which process PID left behind were killed, and that none is left.
type clearedNotice struct {
	PID   int `msgpack:"pid"`
	Count int `msgpack:"count"`
}

// troubleNotice is for the sidecar's log.
type troubleNotice struct {
	Text string `msgpack:"text"`
}
