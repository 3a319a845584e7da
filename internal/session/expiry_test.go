package session_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

const ttl = time.Minute

// noWorkers starts none: whoever asks for one waits until the test lets that fail.
type noWorkers struct{ fail chan struct{} }

func (n noWorkers) Start(ctx context.Context, _ string) (pool.Process, error) {
	select {
	case <-n.fail:
	case <-ctx.Done():
	}
	return nil, errors.New("no such program")
}

// idle is a table whose sessions have no workers, so that time can be the test's own.
func idle(t *testing.T, test func(b *rig, starter noWorkers), options ...func(*rig, *session.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &rig{workers: newWorkers(t), t: t, shelf: newShelf(t)}
		starter := noWorkers{make(chan struct{})}
		var err error
		b.pool, err = pool.New(pool.Config{
			Name: "default", Starter: starter, Hello: func(string) ([]byte, error) { return nil, nil },
			Settings: pool.Settings{
				Size: 1, Concurrency: 1, QueueLimit: 10, Lazy: true, Pinning: pool.PinStrict,
				CheckoutTimeout: 24 * time.Hour, StartTimeout: 24 * time.Hour, HealthInterval: time.Hour, HealthTimeout: time.Hour,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		cfg := session.Config{Pool: b.pool, Store: b.shelf, Settings: session.Settings{TTL: ttl, Max: 100, MaxState: maxState}}
		for _, o := range options {
			o(b, &cfg)
		}
		b.table, err = session.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		test(b, starter)
		b.pool.Close(t.Context())
		if err := b.table.Close(); err != nil {
			t.Error(err)
		}
	})
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock, not a wait
	synctest.Wait()
}

func (b *rig) there(id string) bool {
	_, _, err := b.table.Get(key(id))
	return err == nil
}

func TestExpiry(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		b.create("a", doc{"x": 1})
		if err := b.await(b.creating("long", session.Options{TTL: 10 * ttl})); err != nil {
			t.Fatal(err)
		}
		if err := b.await(b.creating("short", session.Options{TTL: time.Second})); err != nil {
			t.Fatal(err)
		}
		after(time.Second - time.Nanosecond)
		if !b.there("short") {
			t.Error("expired too early")
		}
		after(time.Nanosecond)
		if b.there("short") {
			t.Error("did not expire")
		}
		after(ttl - time.Second)
		if b.there("a") || !b.there("long") {
			t.Errorf("a: %v, long: %v", b.there("a"), b.there("long"))
		}
		if kept, _ := b.shelf.counts(); kept != 1 {
			t.Errorf("the store keeps %d sessions", kept)
		}
		b.ask("a", "do", nil).refused(wire.CodeSessionNotFound)
		b.create("a", nil) // the id is free
		after(9*ttl - time.Nanosecond)
		if !b.there("long") {
			t.Error("a session's own time to live was cut short")
		}
		after(time.Nanosecond)
		if b.table.Len() != 0 {
			t.Errorf("%d are left", b.table.Len())
		}
	})
}

// Use counts from its end; looking does not count as use.
func TestExpiryCountsFromTheLastUse(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		b.create("a", nil)
		b.create("b", nil)
		for i := range 5 {
			after(ttl - time.Nanosecond)
			b.update("a", doc{"x": i})
			if i == 0 && !b.there("b") {
				t.Error("expired too early")
			}
		}
		if b.there("b") {
			t.Error("to be looked at kept a session alive")
		}
		after(ttl - time.Nanosecond)
		if info, _ := b.get("a"); info.Idle != ttl-time.Nanosecond || info.TTL != ttl || info.Age != 6*(ttl-time.Nanosecond) {
			t.Errorf("%+v", info)
		}
		after(time.Nanosecond)
		if b.there("a") {
			t.Error("did not expire")
		}
	})
}

func TestSessionsWithCallsDoNotExpire(t *testing.T) {
	idle(t, func(b *rig, starter noWorkers) {
		b.create("call", nil)
		b.create("commit", nil)
		waiting := b.ask("call", "do", nil)
		b.shelf.slowly("commit", true)
		updated := b.updating("commit", doc{"x": 1})
		store := b.storing()
		after(20 * ttl)
		if !b.there("call") || !b.there("commit") {
			t.Error("a session with a call has expired")
		}
		store(nil)
		if err := b.await(updated); err != nil {
			t.Error(err)
		}
		close(starter.fail)
		waiting.refused(wire.CodeNoWorkers)
		after(ttl - time.Nanosecond)
		if !b.there("call") || !b.there("commit") {
			t.Error("the time did not begin with the end of the call")
		}
		after(ttl)
		if b.table.Len() != 0 {
			t.Errorf("%d are left", b.table.Len())
		}
	})
}

// A creation that the store takes long for does not eat up the session's time, and is not cut off by it.
func TestExpiryDuringCreation(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		b.shelf.slowly("create", true)
		created := b.creating("a", session.Options{})
		store := b.storing()
		after(3 * ttl)
		store(nil)
		if err := b.await(created); err != nil {
			t.Fatal(err)
		}
		after(ttl - time.Nanosecond)
		if !b.there("a") {
			t.Error("expired too early")
		}
		after(2 * ttl)
		if b.there("a") {
			t.Error("did not expire")
		}
	})
}

// What the store could not delete is deleted later: it would be there again after the next start.
func TestDeletedLater(t *testing.T) {
	var log bytes.Buffer
	idle(t, func(b *rig, _ noWorkers) {
		expect := func(what string, kept int, lines string) {
			t.Helper()
			got := ""
			for line := range strings.Lines(log.String()) {
				got += map[bool]string{true: "E", false: "i"}[strings.Contains(line, "level=ERROR")]
			}
			if n, _ := b.shelf.counts(); n != kept || got != lines {
				t.Errorf("%s: the store keeps %d sessions, not %d; the log:\n%s", what, n, kept, log.String())
			}
		}
		for _, id := range []string{"expires", "too"} {
			if err := b.await(b.creating(id, session.Options{TTL: time.Second})); err != nil {
				t.Fatal(err)
			}
		}
		b.create("ends", nil)
		b.shelf.failAll("delete", errDisk)
		if err := b.await(b.ending("ends")); code(err) != wire.CodeStorageUnavailable || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("got %v", err)
		}
		if err := b.await(b.ending("ends")); code(err) != wire.CodeSessionNotFound {
			t.Errorf("a second time: %v", err)
		}
		b.create("ends", nil) // the id is free
		after(30 * time.Second)
		expect("on a dead disk", 4, "Eii")
		b.shelf.failAll("delete", nil)
		after(10 * time.Second)
		expect("when it works again", 1, "Eiii")
		b.shelf.failAll("delete", errDisk)
		if err := b.await(b.ending("ends")); code(err) != wire.CodeStorageUnavailable {
			t.Errorf("got %v", err)
		}
		b.shelf.slowly("delete", true)
		after(30 * time.Second)
		if n := len(b.shelf.waiting); n != 1 {
			t.Errorf("it is tried %d times at once", n)
		}
		b.shelf.slowly("delete", false)
		b.storing()(nil)
		synctest.Wait()
		expect("again", 0, "EiiiEi")
		b.create("last", nil)
		if err := b.await(b.ending("last")); code(err) != wire.CodeStorageUnavailable {
			t.Errorf("got %v", err)
		}
		b.shelf.failAll("delete", nil) // and the table is closed
	}, func(b *rig, c *session.Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		t.Cleanup(func() {
			if n, _ := b.shelf.counts(); n != 0 {
				t.Errorf("%d sessions outlive the end", n)
			}
		})
	})
}

func TestDamagedSessionsExpire(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		after(ttl - time.Nanosecond)
		if b.table.Len() != 1 || b.table.Damages() != 1 {
			t.Error("expired too early")
		}
		after(time.Nanosecond)
		if b.table.Len() != 0 || b.table.Damages() != 0 || len(b.shelf.damaged) != 0 {
			t.Error("did not expire")
		}
	}, func(b *rig, _ *session.Config) {
		b.shelf.damaged = []store.Damage{{Number: 7, Owner: me, ID: "bad", Reason: "a flipped bit"}}
	})
}

func TestFailedDeleteOfAnExpiredSession(t *testing.T) {
	idle(t, func(b *rig, _ noWorkers) {
		b.create("a", nil)
		b.shelf.failNext("delete", errDisk)
		after(2 * ttl)
		if b.there("a") {
			t.Error("did not expire")
		}
		b.create("a", nil)
		after(2 * ttl)
		if b.there("a") {
			t.Error("expiry has ended with the failure")
		}
	})
}
