package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
	"github.com/dspex/dspex-sidecar/wire/wiretest"
)

func TestParamsKeepTheirTypes(t *testing.T) {
	seen := make(chan wiretest.Message, 1)
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		seen <- m
		p.Send(1, m.ID, nil, nil, nil)
	})
	const text = `{"i": 3, "big": 18446744073709551615, "low": -9223372036854775808, "f": 3.0, "e": 1e2, "b": {"$bytes": "AP8="},
		"m": {"$bytes": "x", "other": [1, null, true, "é\u0001"]}, "empty": {}, "none": []}`
	want := map[string]any{
		"i": int64(3), "big": uint64(1<<64 - 1), "low": int64(-1 << 63), "f": 3.0, "e": 100.0, "b": []byte{0, 255},
		"m": map[string]any{"$bytes": "x", "other": []any{int64(1), nil, true, "é\x01"}}, "empty": map[string]any{}, "none": []any{},
	}
	if got, err := decodeObject([]byte(text), "", paramsDepth); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %#v, %v, want %#v", got, err, want)
	}
	want["b"] = "\x00\xff" // the peer does not tell bytes from text
	for _, form := range []string{text, "-"} {
		e := Env{Stdin: strings.NewReader(text)}
		runWith(t.Context(), t, e, s, "call", "m", form, "--session", "s 1", "--timeout", "7s").expect(t, exitOK)
		m := <-seen
		if !reflect.DeepEqual(m.Payload, want) {
			t.Errorf("%s: sent %#v, want %#v", form, m.Payload, want)
		}
		ms, _ := strconv.Atoi(fmt.Sprint(m.Meta["timeout_ms"]))
		if m.Method != "m" || m.Meta["session"] != "s 1" || ms <= 5000 || ms > 7000 {
			t.Errorf("sent %q with %v", m.Method, m.Meta)
		}
	}
	run(t, s, "call", "m").expect(t, exitOK)
	if m := <-seen; len(m.Meta) != 0 || len(m.Payload.(map[string]any)) != 0 {
		t.Errorf("without flags: %+v", m)
	}
}

// nested is an object in which lists are nested, to a depth in all.
func nested(depth int) string {
	return `{"a": ` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + "}"
}

// What the command line lets through can be sent, and what it refuses could not be.
func TestDepthIsTheProtocols(t *testing.T) {
	s := start(t, answers(map[string]any{"m": "done", "session.create": map[string]any{"session": "s"}}))
	run(t, s, "call", "m", nested(63)).expect(t, exitOK)
	run(t, s, "call", "m", strings.Replace(nested(63), "[]", `[{"$bytes": "AP8="}]`, 1)).expect(t, exitOK)
	run(t, s, "call", "m", strings.Replace(nested(63), "[]", "[{}]", 1)).expect(t, exitUsage, "more than 63 deep")
	run(t, s, "sessions", "create", "--state", nested(62)).expect(t, exitOK)
	run(t, s, "sessions", "create", "--state", nested(63)).expect(t, exitUsage, "--state", "more than 62 deep")
	for _, whole := range []string{`"\ud83d\ude00"`, `"\\ud800"`, `"\u0041\n\\"`} {
		run(t, s, "call", "m", `{"a": `+whole+`}`).expect(t, exitOK)
	}
}

func TestBadParams(t *testing.T) {
	for text, says := range map[string]string{
		`{"a": `:                      "ends too early",
		`{"a": 1} x`:                  "at byte",
		`{"a": 1}{}`:                  "something follows",
		`{a: 1}`:                      "invalid character 'a'",
		`[1]`:                         "an object",
		`{"a": 1, "a": 2}`:            `"a" occurs twice`,
		`{"a": 18446744073709551616}`: "out of range",
		`{"a": 1e999}`:                "out of range",
		`{"a": {"$bytes": "?"}}`:      "base64",
		`{"a": "\ud800"}`:             `at byte 7: \ud800 is half`,
		`{"a": "\\\udc00"}`:           `\udc00 is half`,
		`{"\ud800\u0041": 1}`:         `\ud800 is half`,
		`{"a": "\ud800\ud83d\ude00"}`: `\ud800 is half`,
		nested(64):                    "more than 63 deep",
		nested(1 << 16):               "more than 63 deep",
	} {
		run(t, nil, "call", "m", text).expect(t, exitUsage, says, "call --help")
	}
	runWith(t.Context(), t, Env{Stdin: strings.NewReader("")}, nil, "call", "m", "-").expect(t, exitUsage, "ends too early")
	runWith(t.Context(), t, Env{Stdin: strings.NewReader("{\"a\": \"\xff\"}")}, nil, "call", "m", "-").expect(t, exitUsage, "UTF-8")
	runWith(t.Context(), t, Env{Stdin: failing{}}, nil, "call", "m", "-").expect(t, exitFailed, "standard input", errBroken.Error())
}

var errBroken = errors.New("it is broken")

// failing is a stream that cannot be used.
type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errBroken }
func (failing) Write([]byte) (int, error) { return 0, errBroken }

// streaming sends n items as credit allows, and then the result.
func streaming(n int, result any) script {
	var id uint64
	var sent, credit int
	return func(p *wiretest.Peer, m wiretest.Message) {
		switch m.Kind {
		case wire.KindRequest:
			id = m.ID
			credit, _ = strconv.Atoi(fmt.Sprint(m.Meta["stream"]))
		case wire.KindCredit:
			credit += int(m.Credit)
		default:
			return
		}
		for ; sent < n && credit > 0; sent, credit = sent+1, credit-1 {
			p.Send(3, id, nil, map[string]any{"n": sent})
		}
		if sent == n {
			p.Send(1, id, nil, nil, result)
			sent++
		}
	}
}

// What ran a call, and how long, goes to standard error: standard output has the result alone.
func TestCallSaysWhereItRan(t *testing.T) {
	meta := map[string]any{
		"worker": "worker_1", "queue_us": 130, "run_us": 23_400, "usage": map[string]any{"lm_calls": 2, "total_tokens": 310, "cost": 0.0012}, "later": 1,
	}
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		switch m.Method {
		case "fail":
			p.Send(1, m.ID, meta, wire.Errorf(wire.CodeProgramError, "no"), nil)
		case "plain":
			p.Send(1, m.ID, map[string]any{"worker": "worker_1"}, nil, 3)
		default:
			p.Send(1, m.ID, meta, nil, 3)
		}
	})
	const line = "worker_1: ran 23.4ms, waited 130µs, LM calls 2, tokens 310, US dollars 0.0012\n"
	for args, want := range map[string]outcome{
		"call m":                 {exitOK, "3\n", line},
		"call m --stream":        {exitOK, "3\n", line},
		"call plain":             {exitOK, "3\n", "worker_1\n"},
		"call fail":              {exitFailed, "", line + "program_error: no\n"},
		"call fail --json":       {exitFailed, "", "program_error: no\n"},
		"call plain --json":      {exitOK, `{"result":3,"worker":"worker_1"}` + "\n", ""},
		"call m --stream --json": {exitOK, jsonOf(t, map[string]any{"result": 3, "worker": "worker_1", "queue_us": 130, "run_us": 23_400, "usage": meta["usage"]}), ""},
	} {
		if got := run(t, s, strings.Fields(args)...); got != want {
			t.Errorf("%s: %+v, want %+v", args, got, want)
		}
	}
}

func TestStream(t *testing.T) {
	o := run(t, start(t, streaming(1000, map[string]any{"done": true})), "call", "count", "--stream", "--json")
	o.expect(t, exitOK)
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if len(lines) != 1001 || lines[0] != `{"item":{"n":0}}` || lines[999] != `{"item":{"n":999}}` || lines[1000] != `{"result":{"done":true}}` {
		t.Errorf("%d lines, the last is %s", len(lines), lines[len(lines)-1])
	}
	o = run(t, start(t, streaming(2, nil)), "call", "count", "--stream")
	o.expect(t, exitOK)
	if o.stdout != "{\"n\":0}\n{\"n\":1}\n" {
		t.Errorf("for people: %q", o.stdout)
	}
}

func TestOutputThatFails(t *testing.T) {
	cancelled := make(chan struct{})
	s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
		switch m.Kind {
		case wire.KindRequest:
			p.Send(3, m.ID, nil, 1)
		case wire.KindCancel:
			close(cancelled)
		default:
		}
	})
	runWith(t.Context(), t, Env{Stdout: failing{}}, s, "call", "count", "--stream").expect(t, exitFailed, errBroken.Error())
	<-cancelled // the sidecar is told that nobody wants more
	s = start(t, answers(fixtures()))
	runWith(t.Context(), t, Env{Stdout: failing{}}, s, "health").expect(t, exitFailed, errBroken.Error())
}

func TestInterruptCancelsTheCall(t *testing.T) {
	for _, answer := range []string{"cancelled", "never", "a result after all"} {
		t.Run(answer, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			cancels := make(chan wiretest.Message, 1)
			s := start(t, func(p *wiretest.Peer, m wiretest.Message) {
				switch m.Kind {
				case wire.KindRequest:
					interrupt()
				case wire.KindCancel:
					cancels <- m
					switch answer {
					case "cancelled":
						p.Send(1, m.ID, nil, wire.Errorf(wire.CodeCancelled, "as you wish"), nil)
					case "a result after all":
						p.Send(1, m.ID, nil, nil, answer)
					}
				default:
				}
			})
			o := runWith(ctx, t, Env{}, s, "call", "sleep")
			if answer == "a result after all" {
				o.expect(t, exitOK)
			} else {
				o.expect(t, exitInterrupted, "interrupted")
			}
			if m := <-cancels; m.ID == 0 || m.Reason == "" {
				t.Errorf("the cancel was %+v", m)
			}
		})
	}
}

func TestInterruptWhileReadingStdin(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close() //nolint:errcheck // it never fails
	stdin := readFunc(func(b []byte) (int, error) {
		interrupt()
		return r.Read(b)
	})
	runWith(ctx, t, Env{Stdin: stdin}, nil, "call", "m", "-").expect(t, exitInterrupted, "interrupted")
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }
