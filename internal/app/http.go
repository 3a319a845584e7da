package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
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
	listener, err := s.listenHTTP()
	if err != nil {
		return fmt.Errorf("http.listen: %w", err)
	}
	_, unix := h.Unix()
	server := &http.Server{
		Handler: a.Handler(lower(h.Hosts), unix), ReadTimeout: httpTimeout, WriteTimeout: httpTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan struct{})
	go func() { // ends with the server
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("http is served no more", "error", err.Error())
		}
	}()
	s.atEnd(func(context.Context) {
		_ = server.Close() // answers are at hand: none is worth waiting for
		<-served
	})
	s.log.Info("serving http", "listen", h.Listen)
	return nil
}

func (s *sidecar) listenHTTP() (net.Listener, error) {
	path, unix := s.cfg.Load().HTTP.Unix()
	if !unix {
		var config net.ListenConfig
		return config.Listen(context.Background(), "tcp", s.cfg.Load().HTTP.Listen)
	}
	socket, err := proxy.Bind(path, s.cfg.Load().Listen.Mode)
	if err != nil {
		return nil, err
	}
	s.atEnd(func(context.Context) { socket.Close() })
	return socket.Listener(), nil
}

func lower(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.ToLower(name)
	}
	return out
}
