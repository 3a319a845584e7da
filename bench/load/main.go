// Command load makes calls as fast as it may, on many connections and with many calls outstanding, and prints their rate and
// latencies as JSON. It is a part of the benchmark and not of the sidecar.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

type settings struct {
	protocol, address, method, params string
	connections, outstanding, bytes   int
	calls                             int
	session                           bool
	duration                          time.Duration
}

// peer is one connection: calls go out, and answers come back in any order.
type peer interface {
	send(id uint64) error
	flush()
	receive() (id uint64, err error)
	close()
}

func main() {
	var s settings
	flag.StringVar(&s.protocol, "protocol", "dspex", "dspex or http")
	flag.StringVar(&s.address, "address", "", "path of the socket, or HOST:PORT")
	flag.StringVar(&s.method, "method", "echo", "method, or path without its slash")
	flag.StringVar(&s.params, "params", "", "params as a JSON object, in which "+varied+" becomes another text in each call; empty: a value of -bytes")
	flag.IntVar(&s.bytes, "bytes", 512, "length of the value")
	flag.IntVar(&s.connections, "connections", 1, "")
	flag.IntVar(&s.outstanding, "outstanding", 1, "calls in flight on each connection")
	flag.BoolVar(&s.session, "session", false, "each connection in a session of its own")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "")
	flag.IntVar(&s.calls, "calls", 0, "calls on each connection, however long they take; 0: as many as the duration allows")
	flag.Parse()
	if err := run(&s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(s *settings, out io.Writer) error {
	var group sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var all []time.Duration
	var failed error
	start := time.Now()
	for range s.connections {
		group.Go(func() {
			took, err := drive(s, start.Add(s.duration))
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), errors.Join(failed, err)
		})
	}
	group.Wait()
	elapsed := time.Since(start).Seconds()
	if failed != nil {
		return failed
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e3 }
	return json.NewEncoder(out).Encode(map[string]any{
		"calls": len(all), "per_second": float64(len(all)) / elapsed, "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1),
	})
}

// drive keeps calls outstanding on one connection until the end, and returns how long each took.
func drive(s *settings, end time.Time) ([]time.Duration, error) {
	p, err := connect(s)
	if err != nil {
		return nil, err
	}
	defer p.close()
	began := make(map[uint64]time.Time, s.outstanding)
	var took []time.Duration
	for id := uint64(1); id <= uint64(s.outstanding); id++ { //nolint:gosec // a flag
		began[id] = time.Now()
		if err := p.send(id); err != nil {
			return nil, err
		}
	}
	p.flush()
	for len(began) > 0 {
		id, err := p.receive()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		took = append(took, now.Sub(began[id]))
		delete(began, id)
		id += uint64(s.outstanding) //nolint:gosec // a flag
		if s.calls > 0 && id <= uint64(s.calls) || s.calls == 0 && now.Before(end) {
			began[id] = now
			if err := p.send(id); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

func connect(s *settings) (peer, error) {
	params := map[string]any{"value": strings.Repeat("x", s.bytes)}
	if s.params != "" {
		params = nil
		if err := json.Unmarshal([]byte(s.params), &params); err != nil {
			return nil, fmt.Errorf("params: %w", err)
		}
	}
	if s.protocol == "http" {
		return connectHTTP(s, params)
	}
	return connectDspex(s, params)
}

// dspexPeer speaks the sidecar's protocol.
type dspexPeer struct {
	conn    *net.UnixConn
	reader  *wire.Reader
	outbox  *wire.Outbox
	batch   wire.Batch
	method  []byte
	meta    wire.RequestMeta
	payload []byte
	vary    int // where each call has a text of its own; -1: nowhere
}

// varied stands for that text.
const varied = "################"

func connectDspex(s *settings, params map[string]any) (peer, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	p := &dspexPeer{conn: conn, method: []byte(s.method), meta: wire.RequestMeta{TimeoutMS: -1}}
	if err := wire.WidenBuffers(conn); err != nil {
		return nil, err
	}
	if p.payload, err = wire.Marshal(params); err != nil {
		return nil, err
	}
	p.vary = bytes.Index(p.payload, []byte(varied))
	if p.reader, err = wire.NewReader(conn, 64<<20, 0); err != nil {
		return nil, err
	}
	if p.outbox, err = wire.NewOutbox(conn, 0, 0, nil); err != nil {
		return nil, err
	}
	if err := p.once("hello", map[string]any{"protocols": []int{wire.Protocol}}); err != nil {
		return nil, err
	}
	if s.session {
		p.meta.Session = fmt.Appendf(nil, "bench-%d-%p", os.Getpid(), p)
		return p, p.once("session.create", map[string]any{"session": string(p.meta.Session)})
	}
	return p, nil
}

// once makes one call and waits for it.
func (p *dspexPeer) once(method string, params map[string]any) error {
	payload, err := wire.Marshal(params)
	if err != nil {
		return err
	}
	var scratch [256]byte
	p.outbox.Append(&p.batch, wire.AppendRequest(scratch[:0], 1, []byte(method), &wire.RequestMeta{TimeoutMS: -1}), payload, true)
	_, err = p.receive()
	return err
}

func (p *dspexPeer) send(id uint64) error {
	var scratch [256]byte
	payload := p.payload
	if p.vary >= 0 {
		payload = bytes.Clone(payload)
		copy(payload[p.vary:], fmt.Sprintf("%0*d", len(varied), id))
	}
	p.outbox.Append(&p.batch, wire.AppendRequest(scratch[:0], id, p.method, &p.meta), payload, true)
	return nil
}

func (p *dspexPeer) flush() { p.batch.Flush() }

func (p *dspexPeer) receive() (uint64, error) {
	if !p.reader.Ready() {
		p.batch.Flush()
	}
	body, _, err := p.reader.Next()
	if err != nil {
		return 0, err
	}
	f, err := wire.ParseScanned(body)
	if err != nil {
		return 0, err
	}
	if f.Kind != wire.KindResponse || f.Error != nil {
		return 0, fmt.Errorf("a frame of kind %d: %q %q", f.Kind, f.Error, f.Payload)
	}
	return f.ID, nil
}

func (p *dspexPeer) close() {
	_ = p.conn.Close() // all has been read
	p.outbox.Wait()
}

// httpPeer speaks HTTP/1.1 with keep-alive, one call at a time, with as little work as can be.
type httpPeer struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
	id      uint64
}

func connectHTTP(s *settings, params map[string]any) (peer, error) {
	conn, err := net.Dial("tcp", s.address) //nolint:noctx // a benchmark's, on this machine
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", s.method, len(body))
	return &httpPeer{conn: conn, reader: bufio.NewReaderSize(conn, 64<<10), request: append([]byte(head), body...)}, nil
}

func (p *httpPeer) send(id uint64) error {
	p.id = id
	_, err := p.conn.Write(p.request)
	return err
}

func (p *httpPeer) flush() {}

func (p *httpPeer) receive() (uint64, error) {
	length := 0
	for first := true; ; first = false {
		line, err := p.reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		text := strings.TrimSpace(string(line))
		if first && !strings.Contains(text, " 200 ") {
			return 0, fmt.Errorf("answered %q", text)
		}
		if text == "" {
			break
		}
		if value, ok := strings.CutPrefix(strings.ToLower(text), "content-length:"); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return 0, err
			}
		}
	}
	_, err := p.reader.Discard(length)
	return p.id, err
}

func (p *httpPeer) close() { _ = p.conn.Close() } // all has been read
