package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/internal/load"
)

type benchCommand struct {
	Socket   string        `placeholder:"PATH" help:"The sidecar's socket (default: DSPEX_SOCKET, else the usual place)."`
	Sessions int           `default:"100" placeholder:"N" help:"Sessions, each of a client of its own (default: ${default})."`
	Calls    int           `default:"50" placeholder:"N" help:"Calls in each session (default: ${default})."`
	Method   string        `required:"" placeholder:"NAME" help:"The method to call."`
	Params   string        `placeholder:"JSON" help:"Its parameters, a JSON object; - reads them from standard input."`
	InFlight int           `placeholder:"N" help:"Calls of a session in flight at a time (default: all at once)."`
	Rate     float64       `placeholder:"N" help:"Calls a second in all sessions together, each sent when it is due, whatever became of those before."`
	Timeout  time.Duration `default:"60s" placeholder:"TIME" help:"Each call's deadline (default: ${default})."`
	JSON     bool          `name:"json" help:"Print JSON, for programs."`
	HTML     string        `name:"html" placeholder:"FILE" help:"Write a page with the figures and drawings, too."`
}

func (*benchCommand) Help() string {
	return "Makes sessions, calls a method in each, ends them, and tells how long the calls took.\n\nExample:\n\n    " + program +
		` bench --sessions 100 --calls 50 --method count_words --params '{"text": "To be or not to be"}'` +
		"\n    " + program + ` bench --method count_words --params '{"text": "To be"}' --rate 500 --html bench.html`
}

func (*benchCommand) command() string { return program + " bench" }

// Run makes the load and prints what was measured, in part where it was interrupted.
func (c *benchCommand) Run(ctx context.Context, e *Env) error {
	params, err := readParams(ctx, e, c.Params, c.command())
	if err != nil {
		return err
	}
	at := connection{Socket: c.Socket}
	plan := load.Plan{
		Sessions: c.Sessions, Calls: c.Calls, Method: c.Method, Params: params, InFlight: c.InFlight, Rate: c.Rate, Timeout: c.Timeout,
		Dial: func(ctx context.Context) (load.Conn, error) { return at.dial(ctx, e) },
	}
	if err := plan.Check(); err != nil {
		return usage(err, c.command())
	}
	if err := c.sees(ctx, e, &at); err != nil {
		return err
	}
	page, err := c.page()
	if err != nil {
		return err
	}
	run := load.New(plan)
	e.whileShown(run, func() { run.Do(ctx) })
	report := run.Report()
	// What took minutes to measure is printed, whatever becomes of the page.
	if err := errors.Join(c.print(e, report), writePage(page, report)); err != nil {
		return err
	}
	switch {
	case report.Interrupted:
		return ctx.Err()
	case !report.OK():
		return exitError(exitFailed)
	}
	return nil
}

// sees tells at once that nobody is there, or refuses.
func (c *benchCommand) sees(ctx context.Context, e *Env, at *connection) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := at.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Call(ctx, client.Request{Method: "ping"})
	return err
}

// page opens the file for the page, nil where none is wanted: before the load, so that a wrong path costs nobody a run.
func (c *benchCommand) page() (*os.File, error) {
	if c.HTML == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	file, err := os.OpenFile(c.HTML, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, usage(fmt.Errorf("--html: the page cannot be written: %w", err), c.command())
	}
	return file, nil
}

func writePage(file *os.File, r *load.Report) error {
	if file == nil {
		return nil
	}
	if err := errors.Join(r.WritePage(file), file.Close()); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// progressEvery is the time between two looks at how far the run is.
const progressEvery = 200 * time.Millisecond

// whileShown does something while a line on a terminal says how far the run is.
func (e *Env) whileShown(run *load.Run, do func()) {
	if terminalWidth(e.Stderr) == 0 {
		do()
		return
	}
	var showing sync.WaitGroup
	done := make(chan struct{})
	showing.Go(func() {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				e.rewrite(progressLine(run.Progress(now)))
			case <-done:
				e.rewrite("")
				return
			}
		}
	})
	do()
	close(done)
	showing.Wait()
}

// rewrite puts a line in the place of the one before.
func (e *Env) rewrite(line string) {
	if width := terminalWidth(e.Stderr); width > 0 {
		line = shorten(line, width)
	}
	_, _ = fmt.Fprint(e.Stderr, "\r\x1b[K"+line) // nothing is lost where it fails
}

func progressLine(p load.Progress) string {
	line := fmt.Sprintf("%3d %%  %d of %d calls, %.1fs", 100*(p.Done+p.Failed)/p.Calls, p.Done+p.Failed, p.Calls, p.Elapsed.Seconds())
	if p.Failed > 0 {
		line += fmt.Sprintf(", %d failed", p.Failed)
	}
	return line
}

func (c *benchCommand) print(e *Env, r *load.Report) error {
	if c.JSON {
		return e.printJSON(r)
	}
	return e.print(benchText(r))
}

// benchText is the report for people.
func benchText(r *load.Report) []byte {
	var b bytes.Buffer
	loop := fmt.Sprintf("closed loop, %d in flight in each", r.InFlight)
	if r.Loop == "open" {
		loop = fmt.Sprintf("open loop, %g calls a second, timed from when each was due", r.Rate)
	}
	fmt.Fprintf(&b, "%s: %s, %s in each; %s\n", r.Method, counted(r.Sessions, "session", "sessions"), counted(r.CallsPerSession, "call", "calls"), loop)
	fmt.Fprintf(&b, "%d of %d calls succeeded, %d failed; %.1f a second; %.2f s in all\n\n", r.Succeeded, r.Calls, r.Failed, r.PerSecond, r.TookMS/1e3)
	lines := [][]string{{"", "COUNT", "MEAN", "LEAST", "50 %", "90 %", "99 %", "99.9 %", "MOST"}}
	for _, s := range r.Summaries() {
		line := []string{s.Name, fmt.Sprint(s.Count)}
		for _, us := range []int64{s.MeanUS, s.MinUS, s.P50US, s.P90US, s.P99US, s.P999US, s.MaxUS} {
			line = append(line, load.Microseconds(us))
		}
		lines = append(lines, line)
	}
	b.Write(align(lines))
	b.Write(histogram(r))
	if len(r.Errors) > 0 {
		lines := [][]string{{"FAILED IN", "CODE", "COUNT", "THE FIRST ONE'S MESSAGE"}}
		for _, f := range r.Errors {
			lines = append(lines, []string{f.Step, f.Code, fmt.Sprint(f.Count), cell(f.Message)})
		}
		b.WriteByte('\n')
		b.Write(align(lines))
	}
	return b.Bytes()
}

// barLength is that of the longest bar.
const barLength = 50

func histogram(r *load.Report) []byte {
	most := int64(1)
	for _, bucket := range r.Histogram {
		most = max(most, bucket.Count)
	}
	lines := [][]string{}
	for _, bucket := range r.Histogram {
		bar := strings.Repeat("█", int(bucket.Count*barLength/most))
		if bar == "" && bucket.Count > 0 {
			bar = "▏"
		}
		lines = append(lines, []string{"< " + load.Microseconds(bucket.ToUS), fmt.Sprint(bucket.Count), bar})
	}
	if len(lines) == 0 {
		return nil
	}
	return append([]byte("\n"), align(lines)...)
}
