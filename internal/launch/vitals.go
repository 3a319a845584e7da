package launch

import (
	"github.com/dspex/dspex-sidecar/internal/procs"
	"github.com/dspex/dspex-sidecar/pool"
)

var _ pool.Examiner = (*worker)(nil)

// Vitals asks the kernel.
func (w *worker) Vitals() (pool.Vitals, error) {
	u, err := procs.ReadUsage(w.process.PID())
	return pool.Vitals{Memory: u.Resident, CPU: u.CPU, State: u.State}, err
}
