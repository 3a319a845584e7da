package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/dspex/dspex-sidecar/wire"
)

// grpcPeer makes unary gRPC calls over one HTTP/2 connection, with the standard library's client: a gRPC call is a POST
// whose body is one message behind five bytes, and whose outcome is in the trailers.
type grpcPeer struct {
	client  *http.Client
	url     string
	message []byte
	answers chan answer
	errs    chan error
	cancel  context.CancelFunc
	alive   context.Context //nolint:containedctx // ends the calls that are left when the peer is closed
}

func connectGRPC(address, path string, body []byte, outstanding int) peer {
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))) //nolint:gosec // a flag
	p := &grpcPeer{
		client: &http.Client{Transport: transport}, url: "http://" + address + path, message: append(message, body...),
		answers: make(chan answer, outstanding), errs: make(chan error, outstanding),
	}
	p.alive, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *grpcPeer) send(id uint64) error {
	go func() { // ends with its call, at the latest when the peer is closed; there are as many as calls outstanding
		a := answer{id: id}
		status, err := p.call()
		if err != nil {
			p.errs <- err
			return
		}
		if status != "0" {
			a.code = wire.Code("status " + status)
		}
		p.answers <- a
	}()
	return nil
}

func (p *grpcPeer) call() (status string, err error) {
	request, err := http.NewRequestWithContext(p.alive, http.MethodPost, p.url, bytes.NewReader(p.message))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	response, err := p.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answered %s", response.Status)
	}
	return response.Trailer.Get("Grpc-Status"), nil
}

func (p *grpcPeer) flush() {}

func (p *grpcPeer) receive() (answer, error) {
	select {
	case a := <-p.answers:
		return a, nil
	case err := <-p.errs:
		return answer{}, err
	}
}

func (p *grpcPeer) close() {
	p.cancel()
	p.client.CloseIdleConnections()
}
