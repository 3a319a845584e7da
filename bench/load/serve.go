package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

// serveEcho answers each request with its own params: a server of the protocol that does nothing else.
func serveEcho(path string) error {
	_ = os.Remove(path) // of a run before
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return err
		}
		go func() { // ends with its connection
			if err := echo(conn); err != nil {
				fmt.Fprintln(os.Stderr, "echo:", err)
			}
			_ = conn.Close() // the client has gone
		}()
	}
}

func echo(conn *net.UnixConn) error {
	if err := wire.WidenBuffers(conn); err != nil {
		return err
	}
	reader, err := wire.NewReader(conn, maxFrame, 0)
	if err != nil {
		return err
	}
	outbox, err := wire.NewOutbox(conn, 0, 0, nil)
	if err != nil {
		return err
	}
	var batch wire.Batch
	var scratch [64]byte
	for {
		if !reader.Ready() {
			batch.Flush()
		}
		body, owned, err := reader.Next()
		if err != nil {
			return ended(err)
		}
		f, err := wire.ParseScanned(body)
		if err != nil {
			return err
		}
		head := wire.AppendResponse(scratch[:0], f.ID, &wire.ResponseMeta{QueueUS: -1, RunUS: -1})
		outbox.Append(&batch, head, f.Payload, owned)
	}
}

// ended is nil for a client that has gone.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

const completion = `{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",` +
	`"message":{"role":"assistant","content":"[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"}}],` +
	`"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`

// serveModel answers every chat completion in the same way, after a while.
func serveModel(address string, think time.Duration) error {
	server := http.Server{Addr: address, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(think)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(completion)) // a client that has gone wants none
	})}
	return server.ListenAndServe()
}
