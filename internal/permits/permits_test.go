package permits

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// asked is a permit that a test asked for.
type asked struct {
	id      ID
	answers chan error
}

func ask(t *Table, worker string, number uint64, share string, change ...func(*Ask)) *asked {
	a := Ask{ID: ID{worker, number}, Model: "m", Share: share, Left: -1}
	for _, f := range change {
		f(&a)
	}
	one := &asked{a.ID, make(chan error, 2)}
	t.Ask(a, func(_ time.Duration, err error) { one.answers <- err })
	return one
}

func (a *asked) granted(t *testing.T) {
	t.Helper()
	select {
	case err := <-a.answers:
		if err != nil {
			t.Fatalf("%v: %v", a.id, err)
		}
	default:
		t.Fatalf("%v waits", a.id)
	}
}

func (a *asked) waits(t *testing.T) {
	t.Helper()
	select {
	case err := <-a.answers:
		t.Fatalf("%v was answered: %v", a.id, err)
	default:
	}
}

// refused wants a refusal that says when to try again.
func (a *asked) refused(t *testing.T, retry time.Duration) {
	t.Helper()
	select {
	case err := <-a.answers:
		if r, ok := errors.AsType[*RefusedError](err); !ok || r.Retry != retry {
			t.Fatalf("%v: %v", a.id, err)
		}
	default:
		t.Fatalf("%v waits", a.id)
	}
}

// passes waits, on the clock of a synctest's bubble.
func passes(d time.Duration) { <-time.After(d) }

func limited(l Limits) *Table {
	t := New()
	t.Apply(map[string]Limits{"m": l})
	return t
}

func TestConcurrencyIsSharedInTurn(t *testing.T) {
	table := limited(Limits{Concurrency: 2})
	first, second := ask(table, "w1", 1, "a"), ask(table, "w2", 1, "a")
	first.granted(t)
	second.granted(t)
	var greedy []*asked
	for n := range uint64(5) {
		greedy = append(greedy, ask(table, "w1", 10+n, "a"))
	}
	late := ask(table, "w2", 20, "b")
	table.Done(first.id, Report{})
	greedy[0].granted(t) // its share was there first
	late.waits(t)
	table.Done(second.id, Report{})
	late.granted(t) // and then takes turns
	greedy[1].waits(t)
	table.Done(greedy[0].id, Report{})
	greedy[1].granted(t) // in the order in which they were asked for
	if s := table.States()[0]; s.InUse != 2 || s.Queued != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWhatAWorkerHeldIsGivenBack(t *testing.T) {
	table := limited(Limits{Concurrency: 1})
	held, waiting, next := ask(table, "w1", 1, "a"), ask(table, "w1", 2, "b"), ask(table, "w2", 1, "c")
	held.granted(t)
	table.Gone("w1")
	waiting.refused(t, 0)
	next.granted(t)
	table.Gone("w1")
	table.Done(held.id, Report{}) // late
	if s := table.States()[0]; s.InUse != 1 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
	table.Done(next.id, Report{})
	if len(table.held) != 0 {
		t.Errorf("%v", table.held)
	}
}

func TestOneThatIsNotWantedAnyMore(t *testing.T) {
	table := limited(Limits{Concurrency: 1})
	held, waiting, last := ask(table, "w", 1, "a"), ask(table, "w", 2, "a"), ask(table, "w", 3, "a")
	table.Done(waiting.id, Report{})
	waiting.refused(t, 0)
	table.Done(held.id, Report{})
	last.granted(t)
	ask(table, "w", 3, "a").refused(t, 0) // a number that is in use
}

func TestNoModelHasMoreThanItsRequestsInAnyMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 7
		table := limited(Limits{RequestsPerMinute: most})
		defer table.Close()
		var times []time.Time
		for n := range uint64(30) {
			one := ask(table, "w", n, "a")
			if err := <-one.answers; err != nil {
				t.Fatal(err)
			}
			times = append(times, time.Now())
			table.Done(one.id, Report{})
			passes(time.Duration(rand.IntN(20_000)) * time.Millisecond)
		}
		for i := range len(times) - most {
			if d := times[i+most].Sub(times[i]); d < time.Minute {
				t.Errorf("%d requests in %s", most+1, d)
			}
		}
	})
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Limits{TokensPerMinute: 100})
		defer table.Close()
		first := ask(table, "w", 1, "a")
		first.granted(t)
		table.Done(first.id, Report{Tokens: 60})
		second, third := ask(table, "w", 2, "a"), ask(table, "w", 3, "a")
		second.granted(t)
		third.waits(t) // it would take 60, too
		table.Done(second.id, Report{Tokens: 60})
		third.waits(t)
		passes(59 * time.Second)
		synctest.Wait()
		third.waits(t)
		passes(2 * time.Second)
		synctest.Wait()
		third.granted(t)
	})
}

func TestAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Limits{Concurrency: 5})
		defer table.Close()
		first := ask(table, "w", 1, "a")
		table.Done(first.id, Report{Pause: 10 * time.Second})
		waiting := ask(table, "w2", 2, "a")
		waiting.waits(t)
		ask(table, "w", 3, "a", func(a *Ask) { a.NoPause = true }).refused(t, 10*time.Second)
		ask(table, "w", 4, "a", func(a *Ask) { a.Left = 5 * time.Second }).refused(t, 10*time.Second)
		in := ask(table, "w", 5, "a", func(a *Ask) { a.Left = 15 * time.Second })
		in.waits(t)
		if s := table.States()[0]; s.Paused != 10*time.Second || s.Queued != 2 {
			t.Errorf("%+v", s)
		}
		passes(10 * time.Second)
		synctest.Wait()
		waiting.granted(t)
		in.granted(t)
	})
}

// A pause is for those, too, that wait when it begins.
func TestAPauseBeginsWhileRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Limits{Concurrency: 1})
		defer table.Close()
		held := ask(table, "w", 1, "a")
		elsewhere := ask(table, "w", 2, "a", func(a *Ask) { a.NoPause = true })
		late := ask(table, "w", 3, "b", func(a *Ask) { a.Left = 12 * time.Second })
		in, patient := ask(table, "w", 4, "b", func(a *Ask) { a.Left = 30 * time.Second }), ask(table, "w", 5, "c")
		passes(5 * time.Second)
		table.Done(held.id, Report{Pause: 10 * time.Second})
		elsewhere.refused(t, 10*time.Second)
		late.refused(t, 10*time.Second) // 7 s are left
		in.waits(t)
		if s := table.States()[0]; s.Queued != 2 || s.InUse != 0 {
			t.Errorf("%+v", s)
		}
		passes(10 * time.Second)
		synctest.Wait()
		in.granted(t)
		table.Done(in.id, Report{})
		patient.granted(t)
	})
}

// Who slept as long as the provider wanted is not sent elsewhere since its clock was a little ahead.
func TestAPauseThatIsAllButOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Limits{Concurrency: 1})
		defer table.Close()
		first := ask(table, "w", 1, "a")
		table.Done(first.id, Report{Pause: time.Second})
		passes(time.Second - brief)
		again := ask(table, "w", 2, "a", func(a *Ask) { a.NoPause = true })
		again.waits(t)
		passes(brief)
		synctest.Wait()
		again.granted(t)
	})
}

func TestLimitsThatChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := limited(Limits{Concurrency: 1})
		var all []*asked
		for n := range uint64(5) {
			all = append(all, ask(table, "w", n, "a"))
		}
		table.Apply(map[string]Limits{"m": {Concurrency: 3}})
		all[2].granted(t)
		all[3].waits(t)
		table.Apply(map[string]Limits{"m": {}})
		all[3].granted(t)
		all[4].granted(t)
		if n := len(table.States()); n != 0 {
			t.Errorf("%d models have limits", n)
		}
		for _, one := range all {
			table.Done(one.id, Report{Tokens: 1, Pause: time.Second})
		}
		unlimited := ask(table, "w", 9, "a")
		unlimited.granted(t)
		if len(table.held) != 0 {
			t.Errorf("%v", table.held)
		}
		table.Apply(map[string]Limits{"m": {RequestsPerMinute: 1}})
		ask(table, "w", 10, "a").granted(t)
		stuck := ask(table, "w", 11, "a")
		table.Close()
		stuck.granted(t)
	})
}

// Whatever happens, no more than the limit are out, nobody is answered twice, and all are answered.
func TestAnything(t *testing.T) {
	const limit = 3
	rnd := rand.New(rand.NewPCG(1, 2))
	table := limited(Limits{Concurrency: limit})
	out, waiting := map[ID]bool{}, map[ID]bool{}
	for n := range uint64(20_000) {
		switch rnd.IntN(5) {
		case 0, 1, 2:
			id := ID{fmt.Sprint("w", rnd.IntN(4)), n}
			waiting[id] = true
			table.Ask(Ask{ID: id, Model: "m", Share: fmt.Sprint(rnd.IntN(6)), Left: -1}, func(_ time.Duration, err error) {
				if !waiting[id] {
					t.Fatalf("%v is answered twice", id)
				}
				delete(waiting, id)
				if out[id] = err == nil; err != nil {
					delete(out, id)
				}
			})
		case 3:
			for id := range out {
				delete(out, id)
				table.Done(id, Report{})
				break
			}
		case 4:
			if rnd.IntN(20) == 0 {
				worker := fmt.Sprint("w", rnd.IntN(4))
				for id := range out {
					if id.Worker == worker {
						delete(out, id)
					}
				}
				table.Gone(worker)
			}
		}
		if len(out) > limit {
			t.Fatalf("%d are out", len(out))
		}
		if s := table.States()[0]; s.InUse != len(out) || s.Queued != len(waiting) || s.Queued > 0 && s.InUse < limit {
			t.Fatalf("%+v, %d out, %d waiting", s, len(out), len(waiting))
		}
	}
	for _, worker := range []string{"w0", "w1", "w2", "w3"} {
		for id := range out {
			if id.Worker == worker {
				delete(out, id)
			}
		}
		table.Gone(worker)
	}
	if len(waiting)+len(table.held)+len(out) != 0 || slices.ContainsFunc(table.States(), func(s State) bool { return s.InUse != 0 }) {
		t.Errorf("%d wait, %d are held", len(waiting), len(table.held))
	}
}
