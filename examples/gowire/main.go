// Command gowire makes one call with the package `wire` alone, and prints the answer as JSON: what a client in Go begins with. It keeps
// no connections, and makes one call at a time.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/dspex/dspex-sidecar/wire"
)

const maxFrame = 16 << 20

func main() {
	socket := flag.String("socket", os.Getenv("DSPEX_SOCKET"), "the sidecar's socket")
	text := flag.String("text", "", "whose words are to be counted")
	flag.Parse()
	if err := run(*socket, *text); err != nil {
		fmt.Fprintln(os.Stderr, "gowire:", err)
		os.Exit(1)
	}
}

func run(socket, text string) error {
	c, err := connect(socket)
	if err != nil {
		return err
	}
	defer c.close()
	counted, err := c.call("count_words", map[string]any{"text": text}, 10*time.Second)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counted)
}

// client is one connection that has said hello.
type client struct {
	conn   *net.UnixConn
	reader *wire.Reader
	outbox *wire.Outbox
	batch  wire.Batch
	lastID uint64
}

func connect(socket string) (*client, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn}
	if c.reader, err = wire.NewReader(conn, maxFrame, 0); err != nil {
		return nil, err
	}
	if c.outbox, err = wire.NewOutbox(conn, 0, 0, nil); err != nil {
		return nil, err
	}
	hello := map[string]any{
		"protocols": []int{wire.Protocol},
		"features":  []string{},
		"client":    map[string]any{"name": "go", "version": "1"},
	}
	if _, err := c.call("hello", hello, 5*time.Second); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// call sends a request and waits for its response; an error of the sidecar's is a *wire.Error.
func (c *client) call(method string, params map[string]any, timeout time.Duration) (any, error) {
	payload, err := wire.Marshal(params)
	if err != nil {
		return nil, err
	}
	c.lastID++
	head := wire.AppendRequest(nil, c.lastID, []byte(method), &wire.RequestMeta{TimeoutMS: timeout.Milliseconds()})
	c.outbox.Append(&c.batch, head, payload, true)
	c.batch.Flush()
	for {
		body, _, err := c.reader.Next()
		if err != nil {
			return nil, err
		}
		frame, err := wire.Parse(body)
		if err != nil {
			return nil, err
		}
		if frame.Kind == wire.KindResponse && frame.ID == c.lastID { // else a notification, a goaway say
			return result(&frame)
		}
	}
}

func result(frame *wire.Frame) (any, error) {
	if frame.Error != nil {
		var failed wire.Error
		if err := wire.Unmarshal(frame.Error, &failed); err != nil {
			return nil, err
		}
		return nil, &failed
	}
	var value any
	return value, wire.Unmarshal(frame.Payload, &value)
}

func (c *client) close() {
	_ = c.conn.Close() // nothing is under way
	c.outbox.Wait()
}
