package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// peer is one connection: calls go out, and answers come back in any order.
type peer interface {
	send(id uint64) error
	flush()
	receive() (answer, error)
	close()
}

type answer struct {
	id   uint64
	item bool      // of a stream, which goes on
	code wire.Code // of a call that failed
}

func drive(s *settings, out io.Writer) error {
	if s.session {
		s.sessions = s.connections * s.outstanding
	}
	peers, err := connectAll(s)
	defer func() {
		for _, p := range peers {
			p.close()
		}
	}()
	if err != nil {
		return err
	}
	busy := len(peers)
	if s.busy > 0 {
		busy = min(busy, s.busy)
	}
	tallies, errs := make([]tally, busy), make([]error, busy)
	serving, err := parseProcesses(s.processes)
	if err != nil {
		return err
	}
	servedBefore, before, start := serving.processorTime(), processorTime(), time.Now()
	var group sync.WaitGroup
	for i, p := range peers[:busy] {
		group.Go(func() { errs[i] = keepBusy(s, p, start, &tallies[i]) })
	}
	group.Wait()
	elapsed, used, served := time.Since(start), processorTime()-before, serving.processorTime()-servedBefore
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	found := sum(s, tallies, start, elapsed)
	calls := float64(max(found["calls"].(int), 1))
	found["load_cpu_us"] = micros(used) / calls
	if len(serving) > 0 {
		found["cpu_us"] = micros(served) / calls
	}
	return json.NewEncoder(out).Encode(found)
}

// connectAll connects 64 at a time: more are refused where a server's backlog is short.
func connectAll(s *settings) ([]peer, error) {
	params := map[string]any{"value": strings.Repeat("x", s.bytes)}
	if s.params != "" {
		params = nil
		if err := json.Unmarshal([]byte(s.params), &params); err != nil {
			return nil, fmt.Errorf("params: %w", err)
		}
		for name, value := range params { // JSON knows no integers
			if number, ok := value.(float64); ok && number == math.Trunc(number) {
				params[name] = int64(number)
			}
		}
	}
	addresses := strings.Split(s.address, ",")
	peers, errs := make([]peer, s.connections), make([]error, s.connections)
	for from := 0; from < s.connections; from += 64 {
		var group sync.WaitGroup
		for i := from; i < min(from+64, s.connections); i++ {
			group.Go(func() { peers[i], errs[i] = connect(s, i, addresses[i%len(addresses)], params) })
		}
		group.Wait()
	}
	failed := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	peers = slices.DeleteFunc(peers, func(p peer) bool { return p == nil })
	if failed >= 0 {
		return peers, fmt.Errorf("connection %d: %w", failed, errs[failed])
	}
	return peers, nil
}

func connect(s *settings, number int, address string, params map[string]any) (peer, error) {
	if s.protocol == "dspex" {
		payload, err := wire.Marshal(params)
		if err != nil {
			return nil, err
		}
		return connectDspex(s, number, address, payload)
	}
	body, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	switch s.protocol {
	case "http":
		return connectHTTP(address, s.path, bytes.Clone(body))
	case "grpc":
		return connectGRPC(address, s.path, body, s.outstanding), nil
	case "pipes":
		return connectPipes(address, body, s.outstanding)
	}
	return nil, fmt.Errorf("no protocol %q", s.protocol)
}

// keepBusy keeps calls outstanding on one connection until the end.
func keepBusy(s *settings, p peer, start time.Time, t *tally) error {
	end := start.Add(s.duration)
	began := make(map[uint64]time.Time, s.outstanding)
	for id := uint64(1); id <= uint64(s.outstanding); id++ { //nolint:gosec // a flag
		began[id] = time.Now()
		if err := p.send(id); err != nil {
			return err
		}
	}
	p.flush()
	streaming := make(map[uint64]bool)
	for len(began) > 0 {
		a, err := p.receive()
		if err != nil {
			return err
		}
		now := time.Now()
		took := now.Sub(began[a.id])
		if a.item {
			t.item(took, !streaming[a.id])
			streaming[a.id] = true
			continue
		}
		if a.code != "" && !s.tolerate {
			return fmt.Errorf("a call failed: %s", a.code)
		}
		t.answer(now.Sub(start), took, a.code)
		delete(began, a.id)
		delete(streaming, a.id)
		id := a.id + uint64(s.outstanding) //nolint:gosec // a flag
		if s.calls > 0 && id <= uint64(s.calls) || s.calls == 0 && now.Before(end) {
			began[id] = now
			if err := p.send(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// varied stands, in params, for a text that is another one in each call.
const varied = "################"

func vary(payload []byte, at int, id uint64) []byte {
	if at < 0 {
		return payload
	}
	payload = bytes.Clone(payload)
	copy(payload[at:], fmt.Sprintf("%0*d", len(varied), id))
	return payload
}

func sessionName(number int) []byte { return fmt.Appendf(nil, "bench-%d-%d", os.Getpid(), number) }
