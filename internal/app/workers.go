package app

import (
	"time"

	"github.com/dspex/dspex-sidecar/internal/metrics"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/wire"
)

// What workers tell and ask the sidecar itself.

// notified handles what a worker tells.
func (s *sidecar) notified(worker string, generation int, method, params []byte) error {
	switch string(method) {
	case "sidecar.metrics":
		var p struct {
			Metrics []metrics.Report `msgpack:"metrics"`
		}
		if err := wire.Unmarshal(params, &p); err != nil {
			return err
		}
		s.metrics.App.Report(worker, generation, p.Metrics)
	case "model.done":
		return s.permitDone(worker, params)
	}
	return nil // others are of a later version
}

// asked handles what a worker asks.
func (s *sidecar) asked(worker string, method, params []byte, answer func(*wire.Batch, []byte, error)) {
	var batch wire.Batch
	defer batch.Flush()
	var err error
	var result []byte
	switch string(method) {
	case "session.update":
		err = s.updateSession(&batch, params, answer)
	case "model.permit":
		err = s.askPermit(worker, params, answer)
	case "dataset.list":
		result, err = s.listDatasets()
	case "dataset.fetch":
		result, err = s.fetchDataset(params)
	default:
		err = wire.Errorf(wire.CodeUnknownMethod, "no method %q for workers", method)
	}
	if err != nil || result != nil {
		answer(&batch, result, err)
	}
}

func (s *sidecar) updateSession(batch *wire.Batch, params []byte, answer func(*wire.Batch, []byte, error)) error {
	var p struct {
		Key    uint64     `msgpack:"key"`
		Set    rawMessage `msgpack:"set"`
		Delete []string   `msgpack:"delete"`
	}
	if err := wire.Unmarshal(params, &p); err != nil {
		return err
	}
	s.sessions.UpdateNumber(batch, p.Key, session.Update{Set: p.Set, Delete: p.Delete}, func(b *wire.Batch, version uint64, err error) {
		if err != nil {
			answer(b, nil, err)
			return
		}
		result, err := wire.Marshal(map[string]any{"version": version})
		answer(b, result, err)
	})
	return nil
}

// milliseconds of a worker's, of which there may be a fraction; negative where it says nothing.
func milliseconds(ms *float64) time.Duration {
	if ms == nil {
		return -1
	}
	return time.Duration(*ms * float64(time.Millisecond))
}
