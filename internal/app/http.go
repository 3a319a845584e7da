package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/admin"
	"github.com/dspex/dspex-sidecar/proxy"
)

// httpTimeout bounds each part of a request: what is served is small and at hand.
const httpTimeout = 10 * time.Second

// serveHTTP serves what [http] says, until the end; nothing where it says nothing.
func (s *sidecar) serveHTTP(a *admin.Admin) error {
	h := &s.cfg.Load().HTTP
	if h.Listen == "" {
		return nil
	}
	listener, socket, err := s.listenHTTP()
	if err != nil {
		return fmt.Errorf("http.listen: %w", err)
	}
	_, unix := h.Unix()
	server := &http.Server{
		Handler: a.Handler(lower(h.Hosts), unix), ReadTimeout: httpTimeout, WriteTimeout: httpTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var served sync.WaitGroup // what ends with the server
	serve := func(l net.Listener) {
		served.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) { // closed: made again
				s.log.Error("http is served no more", "error", err.Error())
			}
		})
	}
	serve(listener)
	done := make(chan struct{})
	if socket != nil {
		served.Go(func() { socket.Guard(done, s.log, func(l *net.UnixListener) { serve(l) }) })
	}
	s.atEnd(func(context.Context) {
		close(done)
		_ = server.Close() // answers are at hand: none is worth waiting for
		served.Wait()
	})
	s.log.Info("serving http", "listen", h.Listen)
	return nil
}

// listenHTTP listens; the socket is nil where it is none.
func (s *sidecar) listenHTTP() (net.Listener, *proxy.Socket, error) {
	path, unix := s.cfg.Load().HTTP.Unix()
	if !unix {
		var config net.ListenConfig
		l, err := config.Listen(context.Background(), "tcp", s.cfg.Load().HTTP.Listen)
		return l, nil, err
	}
	socket, err := proxy.Bind(path, s.cfg.Load().Listen.Mode)
	if err != nil {
		return nil, nil, err
	}
	s.atEnd(func(context.Context) { socket.Close() })
	return socket.Listener(), socket, nil
}

func lower(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.ToLower(name)
	}
	return out
}
