package app

import (
	"errors"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/permits"
	"github.com/dspex/dspex-sidecar/wire"
)

// embedderPrefix tells the limits of embedders from those of models; no model's name has a ":".
const embedderPrefix = "embedder:"

// modelLimits are the limits that hold across all workers.
func modelLimits(cfg *config.Config) map[string]permits.Limits {
	out := make(map[string]permits.Limits, len(cfg.Models))
	for name, e := range cfg.Embedders {
		out[embedderPrefix+name] = embedderLimits(e)
	}
	for name, m := range cfg.Models {
		out[name] = limitsOf(m)
	}
	return out
}

func limitsOf(m *config.Model) permits.Limits {
	return permits.Limits{Concurrency: m.Concurrency, RequestsPerMinute: m.RequestsPerMinute, TokensPerMinute: m.TokensPerMinute}
}

func embedderLimits(e *config.Embedder) permits.Limits {
	return permits.Limits{Concurrency: e.Concurrency, RequestsPerMinute: e.RequestsPerMinute, TokensPerMinute: e.TokensPerMinute}
}

// askPermit answers when the request to a model may be made. The map that it answers with is empty.
func (s *sidecar) askPermit(worker string, params []byte, answer func(*wire.Batch, []byte, error)) error {
	var p struct {
		Permit  uint64   `msgpack:"permit"`
		Model   string   `msgpack:"model"`
		Share   string   `msgpack:"share"`
		NoPause bool     `msgpack:"no_pause"`
		LeftMS  *float64 `msgpack:"left_ms"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	s.permits.Ask(permits.Ask{
		ID: permits.ID{Worker: worker, Number: p.Permit}, Model: p.Model, Share: p.Share, NoPause: p.NoPause, Left: milliseconds(p.LeftMS),
	}, func(waited time.Duration, err error) {
		var b wire.Batch
		defer b.Flush()
		if refusal, ok := errors.AsType[*permits.RefusedError](err); ok {
			e := wire.Errorf(wire.CodeLMError, "%s", refusal.Why)
			e.Retryable = true
			if refusal.Retry > 0 {
				e = e.With("retry_after_ms", refusal.Retry.Milliseconds())
			}
			answer(&b, nil, e)
			return
		}
		if waited >= 0 {
			s.metrics.PermitWaited(p.Model, waited)
		}
		answer(&b, []byte{0x80}, nil)
	})
	return nil
}

// permitDone takes a permit back.
func (s *sidecar) permitDone(worker string, params []byte) error {
	var p struct {
		Permit  uint64   `msgpack:"permit"`
		Tokens  int      `msgpack:"tokens"`
		PauseMS *float64 `msgpack:"pause_ms"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	s.permits.Done(permits.ID{Worker: worker, Number: p.Permit}, permits.Report{Tokens: p.Tokens, Pause: milliseconds(p.PauseMS)})
	return nil
}

// scrapePermits is how the limited models stand.
func (s *sidecar) scrapePermits() []metrics.Sample {
	var out []metrics.Sample
	for _, one := range s.permits.States() {
		for name, value := range map[string]float64{
			"dspex_lm_in_use": float64(one.InUse), "dspex_lm_queued": float64(one.Queued), "dspex_lm_paused_seconds": one.Paused.Seconds(),
		} {
			out = append(out, metrics.Sample{Name: name, Labels: []string{"model", one.Model}, Value: value})
		}
	}
	return out
}
