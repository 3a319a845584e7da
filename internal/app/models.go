package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/keeper"
	"github.com/dspex/dspex-sidecar/internal/launch"
)

// models are the model servers of a generation that have a command: one process each for all workers, at an address and with a key that only the
// sidecar and its workers know.
type models struct {
	environ []string
	servers map[string]*modelServer
}

// newModels starts them. Those of the generation before that would be started alike are shared with it.
func newModels(cfg *config.Config, environ []string, p *launch.Processes, l *logs, before *models) (*models, error) {
	m := &models{environ: environ, servers: make(map[string]*modelServer)}
	for _, name := range slices.Sorted(maps.Keys(cfg.Models)) {
		model := cfg.Models[name]
		if len(model.Command) == 0 {
			continue
		}
		s, err := newModelServer(name, model, cfg, environ, p, l)
		if err != nil {
			m.close()
			return nil, err
		}
		if before != nil && before.servers[name] != nil && before.servers[name].alike(s) {
			s = before.servers[name]
		}
		if s.users.Add(1) > 1 {
			m.servers[name] = s
			continue
		}
		if err := s.begin(); err != nil {
			m.close()
			return nil, err
		}
		m.servers[name] = s
	}
	return m, nil
}

// close ends the servers that no other generation uses.
func (m *models) close() {
	for _, s := range m.servers {
		if s.users.Add(-1) == 0 {
			s.close()
		}
	}
}

// ready waits until each server that no other generation uses has answered once, or has failed. One that is shared is no worse for this generation.
func (m *models) ready(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(m.servers)) {
		s := m.servers[name]
		if s.users.Load() > 1 {
			continue
		}
		select {
		case <-s.known:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if why := s.failing(); why != "" {
			return errors.New("model " + name + ": " + why)
		}
	}
	return nil
}

// apply puts settings of a configuration in force that do not need another process.
func (m *models) apply(cfg *config.Config) {
	for name, s := range m.servers {
		if model := cfg.Models[name]; model != nil {
			s.startTimeout.Store(int64(model.StartTimeout))
		}
	}
}

// failures says, for each model server that does not answer, why.
func (m *models) failures() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m.servers)) {
		if f := m.servers[name].failing(); f != "" {
			out = append(out, "model "+name+": "+f)
		}
	}
	return out
}

// settings are what workers are told of the models. Keys are resolved anew each time.
func (m *models) settings(cfg *config.Config) (map[string]any, error) {
	out := make(map[string]any, len(cfg.Models))
	for name, model := range cfg.Models {
		s := modelSettings(model)
		s["default"] = name == cfg.DefaultModel()
		key, err := model.APIKey.Resolve(m.environ)
		if err != nil {
			return nil, fmt.Errorf("models.%s.api_key: %w", name, err)
		}
		base := model.APIBase
		if server := m.servers[name]; server != nil {
			base, key = "http://"+server.port.address()+"/v1", server.key
		}
		s["api_key"], s["api_base"] = key, base
		out[name] = withoutNothing(s)
	}
	return out, nil
}

// modelSettings are those that need no look-up.
func modelSettings(m *config.Model) map[string]any {
	s := map[string]any{
		"model": m.Model, "adapter": m.Adapter, "response_schema": m.ResponseSchema, "extraction_model": m.Extraction, "num_retries": m.NumRetries,
		"max_tokens": m.MaxTokens, "stop": m.Stop, "reasoning_effort": m.Reasoning, "timeout": m.Timeout.Seconds(), "fallbacks": m.Fallbacks,
		"limited": limitsOf(m).Any(), "cache": m.Cache, "cache_scope": m.CacheScope,
	}
	for k, v := range map[string]*float64{
		"temperature": m.Temperature, "top_p": m.TopP, "input_price": m.InputPrice, "output_price": m.OutputPrice,
	} {
		if v != nil {
			s[k] = *v
		}
	}
	if m.Seed != nil {
		s["seed"] = *m.Seed
	}
	return s
}

// withoutNothing leaves out what was not given: numbers and text that may be left out are never zero where they were, and are nil where they may.
func withoutNothing(s map[string]any) map[string]any {
	for k, v := range s {
		switch v := v.(type) {
		case string:
			if v == "" {
				delete(s, k)
			}
		case []string:
			if len(v) == 0 {
				delete(s, k)
			}
		}
	}
	return s
}

// embedderSettings are what workers are told of the embedders. Keys are resolved anew each time.
func embedderSettings(cfg *config.Config, environ []string) (map[string]any, error) {
	out := make(map[string]any, len(cfg.Embedders))
	for name, e := range cfg.Embedders {
		key, err := e.APIKey.Resolve(environ)
		if err != nil {
			return nil, fmt.Errorf("embedders.%s.api_key: %w", name, err)
		}
		out[name] = withoutNothing(map[string]any{
			"model": e.Model, "api_key": key, "api_base": e.APIBase, "batch_size": e.BatchSize, "dimensions": e.Dimensions, "timeout": e.Timeout.Seconds(),
			"num_retries": e.NumRetries, "limited": embedderLimits(e).Any(), "default": e.Default || len(cfg.Embedders) == 1,
		})
	}
	return out, nil
}

// modelServer is one process that serves a model over HTTP on a loopback port.
type modelServer struct {
	name         string
	argv         []string
	base         []string // its environment, but for what says where to listen
	dir          string
	startTimeout atomic.Int64
	processes    *launch.Processes
	log, output  *slog.Logger
	users        atomic.Int32 // generations

	// Set by begin.
	env   []string
	port  *port
	key   string
	end   context.CancelFunc
	tasks sync.WaitGroup
	known chan struct{} // closed when it has answered, or failed

	mu      sync.Mutex // guards what follows
	failure string
	asked   bool // known is closed
}

func newModelServer(name string, model *config.Model, cfg *config.Config, environ []string, p *launch.Processes, l *logs) (*modelServer, error) {
	env, err := cfg.Pool.Environ(environ)
	if err != nil {
		return nil, err
	}
	s := &modelServer{
		name: name, base: env, dir: cfg.Dir, processes: p, log: l.own.With("model", name), output: l.output.With("model", name), failure: "it is starting", known: make(chan struct{}),
	}
	s.startTimeout.Store(int64(model.StartTimeout))
	for _, a := range model.Command {
		s.argv = append(s.argv, strings.ReplaceAll(a, "{python}", cfg.Pool.Python))
	}
	return s, nil
}

// alike says whether another one would be started as this one was.
func (s *modelServer) alike(other *modelServer) bool {
	return slices.Equal(s.argv, other.argv) && slices.Equal(s.base, other.base) && s.dir == other.dir
}

// begin starts the server, and keeps it until close.
func (s *modelServer) begin() error {
	at, err := reservePort()
	if err != nil {
		return fmt.Errorf("models.%s: %w", s.name, err)
	}
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // never fails
	s.port, s.key = at, hex.EncodeToString(secret[:])
	s.env = append(slices.Clip(s.base), "DSPEX_MODEL_LISTEN="+at.address(), "DSPEX_MODEL_KEY="+s.key, "PYTHONUNBUFFERED=1")
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.tasks.Go(func() { s.keep(ctx) })
	return nil
}

func (s *modelServer) close() {
	s.end()
	s.tasks.Wait()
	s.port.close()
}

func (s *modelServer) failing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

func (s *modelServer) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = why
	if !s.asked {
		s.asked = true
		close(s.known)
	}
}

// keep runs the server and starts it again when it ends, until ctx is done.
func (s *modelServer) keep(ctx context.Context) {
	const most = 30 * time.Second
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		why := s.runOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > most {
			wait = 100 * time.Millisecond
		}
		s.fail(why)
		s.log.Error("model server ended", "reason", why, "again_in_ms", wait.Milliseconds())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, most)
	}
}

// runOnce runs one process until it ends, and says why it did.
func (s *modelServer) runOnce(ctx context.Context) string {
	out := launch.NewOutput(s.output)
	process, err := s.processes.Start(ctx, keeper.Spec{Argv: s.argv, Env: s.env, Dir: s.dir}, out)
	if err != nil {
		return err.Error()
	}
	why := s.serve(ctx, process)
	_ = process.Kill() // one that has ended needs none
	<-process.Done()
	out.Finish()
	if lines := out.Last(); len(lines) > 0 {
		why += "; it printed: " + strings.Join(lines, "\n")
	}
	return why
}

// serve waits until the process is ready and then until it ends or is wanted no more, and says why that was.
func (s *modelServer) serve(ctx context.Context, process *keeper.Process) string {
	limit := time.Duration(s.startTimeout.Load())
	ready, stop := context.WithTimeout(ctx, limit)
	defer stop()
	if err := s.awaitReady(ready, process, limit); err != nil {
		return err.Error()
	}
	s.fail("")
	s.log.Info("model server ready", "pid", process.PID())
	select {
	case <-process.Done():
		return process.Exit().String()
	case <-ctx.Done():
		return "the sidecar is ending"
	}
}

// awaitReady polls the server's /health until it answers 200, and makes sure that it is this server that does.
func (s *modelServer) awaitReady(ctx context.Context, process *keeper.Process, limit time.Duration) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	why := ""
	for {
		healthy, err := s.healthy(ctx)
		if err != nil {
			return err
		}
		if healthy {
			ours, err := s.port.servedBy(process.PID())
			switch {
			case ours:
				return nil
			case err != nil:
				why = ": who listens at " + s.port.address() + " cannot be told: " + err.Error()
			default:
				why = ": another process listens at " + s.port.address()
			}
		}
		select {
		case <-tick.C:
		case <-process.Done():
			return errors.New("it ended before it was ready" + why)
		case <-ctx.Done():
			return fmt.Errorf("it was not ready within %s (start_timeout)%s", limit, why)
		}
	}
}

// healthy asks once. The error is of a request that cannot be made at all.
func (s *modelServer) healthy(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.port.address()+"/health", http.NoBody)
	if err != nil {
		return false, err
	}
	req.Close = true // nothing is asked again once it is ready
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil //nolint:nilerr // it does not listen yet
	}
	_ = resp.Body.Close() // what else it says does not matter
	return resp.StatusCode == http.StatusOK, nil
}
