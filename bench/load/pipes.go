package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"strings"
)

// pipesPeer is one worker at the ends of two pipes, as ports of the Erlang kind are: a length, then JSON, answered in order.
type pipesPeer struct {
	in, out *os.File
	reader  *bufio.Reader
	body    []byte
	waiting []uint64    // sent and not yet answered
	writes  chan uint64 // a worker that writes does not read: writing must not keep this side from reading
	done    chan error
}

func connectPipes(address string, body []byte, outstanding int) (peer, error) {
	in, out, _ := strings.Cut(address, ":")
	p := &pipesPeer{body: body, writes: make(chan uint64, outstanding), done: make(chan error, 1)}
	var err error
	if p.in, err = os.OpenFile(in, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	if p.out, err = os.Open(out); err != nil {
		return nil, err
	}
	p.reader = bufio.NewReaderSize(p.out, 64<<10)
	go func() { p.done <- p.write() }() // close ends it, and waits for it
	return p, nil
}

func (p *pipesPeer) write() error {
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(p.body))), p.body...) //nolint:gosec // a flag
	for range p.writes {
		if _, err := p.in.Write(message); err != nil {
			return err
		}
	}
	return nil
}

func (p *pipesPeer) send(id uint64) error {
	p.waiting = append(p.waiting, id)
	p.writes <- id
	return nil
}

func (p *pipesPeer) flush() {}

func (p *pipesPeer) receive() (answer, error) {
	var length [4]byte
	if _, err := io.ReadFull(p.reader, length[:]); err != nil {
		return answer{}, err
	}
	if _, err := p.reader.Discard(int(binary.BigEndian.Uint32(length[:]))); err != nil {
		return answer{}, err
	}
	id := p.waiting[0]
	p.waiting = p.waiting[1:]
	return answer{id: id}, nil
}

func (p *pipesPeer) close() {
	close(p.writes)
	_, _, _ = <-p.done, p.in.Close(), p.out.Close() // all has been read
}
