package main

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/dspex/dspex-sidecar/wire"
)

// httpPeer speaks HTTP/1.1, one call at a time, with as little work as can be. Where the server closes the connection
// after an answer, the next call has a connection of its own.
type httpPeer struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
	id      uint64
	closed  bool
}

func connectHTTP(address, path string, body []byte) (peer, error) {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	p := &httpPeer{address: address, request: append([]byte(head), body...), reader: bufio.NewReaderSize(nil, 64<<10)}
	return p, p.dial()
}

func (p *httpPeer) dial() error {
	network := "tcp"
	if strings.HasPrefix(p.address, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, p.address) //nolint:noctx // a benchmark's, on this machine
	if err != nil {
		return err
	}
	p.conn, p.closed = conn, false
	p.reader.Reset(conn)
	return nil
}

func (p *httpPeer) send(id uint64) error {
	p.id = id
	if p.closed {
		if err := p.dial(); err != nil {
			return err
		}
	}
	_, err := p.conn.Write(p.request)
	return err
}

func (p *httpPeer) flush() {}

func (p *httpPeer) receive() (answer, error) {
	length := 0
	a := answer{id: p.id}
	for first := true; ; first = false {
		line, err := p.reader.ReadSlice('\n')
		if err != nil {
			return a, err
		}
		text := strings.ToLower(strings.TrimSpace(string(line)))
		if first && !strings.Contains(text, " 200 ") {
			a.code = wire.Code(text)
		}
		if text == "" {
			break
		}
		if value, ok := strings.CutPrefix(text, "content-length:"); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return a, err
			}
		}
		p.closed = p.closed || text == "connection: close"
	}
	_, err := p.reader.Discard(length)
	if p.closed {
		_ = p.conn.Close() // at once: the server waits for it
	}
	return a, err
}

func (p *httpPeer) close() { _ = p.conn.Close() } // all has been read
