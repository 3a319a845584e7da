package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/dspex/dspex-sidecar/wire"
)

// plan is what is done in one run. What processes and clocks make of it is another time's own.
type plan struct {
	settings settings
	sessions [][][]order // for each session, what is sent at once, one after the other, and again from the beginning
	faults   []fault
}

// order is a request that is to be made.
type order struct {
	Kind   string
	Pad    int
	Secret bool
	Safe   bool   // the caller says that it may be run again
	Key    string // "", "new", "again"
	Micros int    // a deadline, or when it is cancelled
}

// fault is what happens to processes, so many answers and microseconds after the one before.
type fault struct {
	Kind   string
	After  int
	Micros int
	Which  int
}

// request is an order with all that belongs to it.
type request struct {
	kind         string
	id, set, pad int
	secret       bool
	key          string
	fails        bool // by itself, in any case
	meta, params map[string]any
	sent         msgpack.RawMessage // params; what goes with an idempotency key is compared as bytes
}

func (r *request) String() string { return fmt.Sprint(r.kind, " ", r.params, " ", r.meta) }

// mayFail says whether this request may end with that error, where its session is there. An error changes nothing.
func (r *request) mayFail(e *wire.Error) bool {
	switch e.Code {
	case wire.CodeWorkerLost, wire.CodeSessionLost:
		return !strings.HasPrefix(r.kind, "session.")
	case wire.CodeProgramError:
		return r.fails
	case wire.CodeDeadlineExceeded, wire.CodeCancelled:
		return r.kind == "add_slow"
	default:
		return false
	}
}

// GoString keeps it out of rapid's report: the seed says it all.
func (p plan) GoString() string {
	return fmt.Sprintf("%+v, %d sessions, %d faults", p.settings, len(p.sessions), len(p.faults))
}

func drawPlan(rt *rapid.T, kills map[string]int) plan {
	p := plan{settings: settings{
		Size: rapid.IntRange(1, 3).Draw(rt, "size"), Concurrency: rapid.SampledFrom([]int{1, 2, 64}).Draw(rt, "concurrency"),
		Pinning: rapid.SampledFrom([]string{"strict", "soft"}).Draw(rt, "pinning"),
	}}
	p.sessions = rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(drawOrders), 8, 24), 2, 6).Draw(rt, "sessions")
	var kinds []string
	for _, kind := range []string{"kill worker", "kill sidecar", "move", "resize", "renew"} {
		kinds = append(kinds, slices.Repeat([]string{kind}, kills[kind])...)
	}
	for _, kind := range rapid.Permutation(kinds).Draw(rt, "faults") {
		p.faults = append(p.faults, fault{
			Kind: kind, After: rapid.IntRange(0, 25).Draw(rt, "after"), Micros: rapid.IntRange(0, 20_000).Draw(rt, "delay"),
			Which: rapid.IntRange(0, 5).Draw(rt, "which"),
		})
	}
	return p
}

// drawOrders is what is sent at once: a few calls, or one request about the session.
func drawOrders(rt *rapid.T) []order {
	alone := rapid.SampledFrom([]string{
		"", "", "", "", "", "", "", "", "session.update", "session.get", "session.reset", "session.end", "hang up",
	}).Draw(rt, "alone")
	if alone != "" && alone != "hang up" {
		return []order{{Kind: alone, Micros: rapid.IntRange(0, 1).Draw(rt, "delete")}}
	}
	calls := rapid.SliceOfN(rapid.Custom(drawCall), 1, 4).Draw(rt, "calls")
	if alone == "hang up" {
		calls = append(calls, order{Kind: alone})
	}
	return calls
}

func drawCall(rt *rapid.T) order {
	o := order{Kind: rapid.SampledFrom([]string{
		"add", "add", "add_in_thread", "add_safe", "look", "fail", "add_slow", "add_streamed",
	}).Draw(rt, "call")}
	switch o.Kind {
	case "add_slow":
		o.Micros = rapid.IntRange(-20_000, 20_000).Draw(rt, "limit") // below zero: it is cancelled
		return o
	case "add", "add_in_thread", "add_safe":
		o.Pad = rapid.SampledFrom([]int{0, 0, 0, 100, 5_000, 300_000}).Draw(rt, "pad")
		o.Secret = rapid.Bool().Draw(rt, "secret")
		o.Safe = rapid.IntRange(0, 3).Draw(rt, "safe") == 0
	case "look", "add_streamed":
		return o
	}
	o.Key = rapid.SampledFrom([]string{"", "", "new", "again"}).Draw(rt, "key")
	return o
}
