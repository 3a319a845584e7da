package main

import (
	"bytes"
	"fmt"
	"net"

	"github.com/dspex/dspex-sidecar/wire"
)

const maxFrame = 64 << 20

// dspexPeer speaks the sidecar's protocol.
type dspexPeer struct {
	conn     *net.UnixConn
	reader   *wire.Reader
	outbox   *wire.Outbox
	batch    wire.Batch
	method   []byte
	meta     wire.RequestMeta
	payload  []byte
	vary     int // where each call has a text of its own; -1: nowhere
	sessions [][]byte
	borrowed bool // they are another connection's
}

func connectDspex(s *settings, number int, address string, payload []byte) (peer, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	p := &dspexPeer{conn: conn, method: []byte(s.method), payload: payload, vary: bytes.Index(payload, []byte(varied))}
	p.meta = wire.RequestMeta{TimeoutMS: -1, RetrySafe: s.safe, Stream: uint32(s.credit)} //nolint:gosec // a flag
	if err := wire.WidenBuffers(conn); err != nil {
		return nil, err
	}
	if p.reader, err = wire.NewReader(conn, maxFrame, 0); err != nil {
		return nil, err
	}
	if p.outbox, err = wire.NewOutbox(conn, 0, 0, nil); err != nil {
		return nil, err
	}
	if err := p.ask("hello", []map[string]any{{"protocols": []int{wire.Protocol}, "max_frame": maxFrame}}); err != nil {
		return nil, err
	}
	for i := number; i < s.sessions; i += s.connections {
		p.sessions = append(p.sessions, sessionName(i))
	}
	if err := p.eachSession("session.create"); err != nil {
		return nil, err
	}
	if s.sessions > 0 && len(p.sessions) == 0 { // fewer than connections
		p.sessions, p.borrowed = [][]byte{sessionName(number % s.sessions)}, true
	}
	return p, nil
}

func (p *dspexPeer) eachSession(method string) error {
	var params []map[string]any
	for _, name := range p.sessions {
		params = append(params, map[string]any{"session": string(name)})
	}
	return p.ask(method, params)
}

// ask makes calls one after another, 256 at a time, and waits for them.
func (p *dspexPeer) ask(method string, params []map[string]any) error {
	var scratch [256]byte
	waiting := 0
	for i, one := range params {
		payload, err := wire.Marshal(one)
		if err != nil {
			return err
		}
		head := wire.AppendRequest(scratch[:0], uint64(i)+1, []byte(method), &wire.RequestMeta{TimeoutMS: -1})
		p.outbox.Append(&p.batch, head, payload, true)
		if waiting++; waiting < 256 && i < len(params)-1 {
			continue
		}
		for ; waiting > 0; waiting-- {
			a, err := p.receive()
			if err != nil {
				return err
			}
			if a.code != "" {
				return fmt.Errorf("%s: %s", method, a.code)
			}
		}
	}
	return nil
}

func (p *dspexPeer) send(id uint64) error {
	var scratch [256]byte
	if len(p.sessions) > 0 {
		p.meta.Session = p.sessions[id%uint64(len(p.sessions))]
	}
	p.outbox.Append(&p.batch, wire.AppendRequest(scratch[:0], id, p.method, &p.meta), vary(p.payload, p.vary, id), true)
	return nil
}

func (p *dspexPeer) flush() { p.batch.Flush() }

func (p *dspexPeer) receive() (answer, error) {
	if !p.reader.Ready() {
		p.batch.Flush()
	}
	body, _, err := p.reader.Next()
	if err != nil {
		return answer{}, err
	}
	f, err := wire.ParseScanned(body)
	if err != nil {
		return answer{}, err
	}
	a := answer{id: f.ID, item: f.Kind == wire.KindItem}
	if f.Kind != wire.KindResponse && !a.item {
		return a, fmt.Errorf("a frame of kind %d: %q", f.Kind, f.Payload)
	}
	if f.Error != nil {
		var found wire.Error
		if err := wire.Unmarshal(f.Error, &found); err != nil {
			return a, err
		}
		a.code = found.Code
	}
	return a, nil
}

func (p *dspexPeer) close() {
	if !p.borrowed {
		_ = p.eachSession("session.end") // as well as can be: it is measured no more
	}
	_ = p.conn.Close() // all has been read
	p.outbox.Wait()
}
