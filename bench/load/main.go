// Command load makes calls as fast as it may, on many connections and with many calls outstanding, and prints their rate and
// latencies as JSON. With -serve it is the other side: an echo, which is the least that a server of the protocol can cost, or
// a language model that takes its time. It is a part of the benchmark and not of the sidecar.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

type settings struct {
	serve, protocol, address, path, method, params, processes string
	connections, busy, outstanding, bytes, sessions           int
	calls, credit                                             int
	session, safe, tolerate, timeline                         bool
	duration, think                                           time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.serve, "serve", "", "echo or lm: be that server, at -address")
	flag.StringVar(&s.protocol, "protocol", "dspex", "dspex, http, grpc or pipes")
	flag.StringVar(&s.address, "address", "", "path of a socket, HOST:PORT, or IN:OUT of two pipes; several, with commas between, are used in turn")
	flag.StringVar(&s.processes, "processes", "", "ids, with commas between: what they use while calls are made is told as cpu_us")
	flag.StringVar(&s.path, "path", "/", "path of HTTP requests")
	flag.StringVar(&s.method, "method", "echo", "method of dspex requests")
	flag.StringVar(&s.params, "params", "", "params as a JSON object, in which "+varied+" becomes another text in each call; empty: a value of -bytes")
	flag.IntVar(&s.bytes, "bytes", 512, "length of the value")
	flag.IntVar(&s.connections, "connections", 1, "")
	flag.IntVar(&s.busy, "busy", 0, "of the connections, so many make calls; 0: all")
	flag.IntVar(&s.outstanding, "outstanding", 1, "calls in flight on each connection")
	flag.BoolVar(&s.session, "session", false, "each outstanding call in a session of its own")
	flag.IntVar(&s.sessions, "sessions", 0, "so many sessions, shared out among the connections, each of which uses its own in turn")
	flag.IntVar(&s.credit, "stream", 0, "calls are streams, of so much credit")
	flag.BoolVar(&s.safe, "safe", false, "calls may be run again")
	flag.BoolVar(&s.tolerate, "tolerate", false, "count calls that fail, and go on")
	flag.BoolVar(&s.timeline, "timeline", false, "print how many answers came in each 10 ms")
	flag.DurationVar(&s.duration, "duration", 2*time.Second, "")
	flag.DurationVar(&s.think, "think", 200*time.Millisecond, "how long the language model takes")
	flag.IntVar(&s.calls, "calls", 0, "calls on each connection, however long they take; 0: as many as the duration allows")
	flag.Parse()
	if err := run(&s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(s *settings, out io.Writer) error {
	switch s.serve {
	case "":
		return drive(s, out)
	case "echo":
		return serveEcho(s.address)
	case "lm":
		return serveModel(s.address, s.think)
	}
	return errors.New("-serve is echo or lm")
}
