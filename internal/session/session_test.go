package session

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dspex/dspex-sidecar/internal/store"
	"github.com/dspex/dspex-sidecar/pool"
	"github.com/dspex/dspex-sidecar/wire"
)

// What grown says is what is there after apply, counted anew; a key is in one place.
func TestGrown(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := &session{state: map[string][]byte{}, secrets: map[string][]byte{}}
	for i := range 5000 {
		entries := func() map[string][]byte {
			m := map[string][]byte{}
			for range random.IntN(3) {
				m[fmt.Sprint("key", random.IntN(12))] = make([]byte, 1+random.IntN(20))
			}
			return m
		}
		c := &store.Change{Version: uint64(i + 1)}
		for range 1 + random.IntN(3) { // frames
			add(c, entries(), entries(), slices.Collect(maps.Keys(entries())))
		}
		n := s.grown(c)
		s.apply(c)
		count := 0
		for k, v := range s.state {
			count += len(k) + len(v)
			if s.secrets[k] != nil {
				t.Fatalf("%q is in the state and among the secrets", k)
			}
		}
		for k, v := range s.secrets {
			count += len(k) + len(v)
		}
		if n != count || s.bytes != count || s.version != c.Version {
			t.Fatalf("change %d: %d bytes were expected, %d are there", i, n, count)
		}
	}
}

// Frames count in their order, whatever they have in common.
func TestAddKeepsTheOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		want := map[string]string{} // "s" and a value, "x" and a secret, "" deleted
		c := &store.Change{}
		for frame := range 1 + random.IntN(4) {
			set, secrets, deleted := map[string][]byte{}, map[string][]byte{}, []string(nil)
			for range random.IntN(4) {
				k := fmt.Sprint(random.IntN(5))
				switch random.IntN(3) {
				case 0:
					set[k] = []byte{byte(frame + 1)}
				case 1:
					secrets[k] = []byte{byte(frame + 1)}
				default:
					deleted = append(deleted, k)
				}
			}
			for k, v := range set {
				want[k] = "s" + string(v)
			}
			for k, v := range secrets {
				want[k] = "x" + string(v)
			}
			for _, k := range deleted {
				want[k] = ""
			}
			add(c, set, secrets, deleted)
		}
		got := map[string]string{}
		for k, v := range c.Set {
			got[k] = "s" + string(v)
		}
		for k, v := range c.Secrets {
			got[k] = "x" + string(v)
		}
		for _, k := range c.Delete {
			got[k] = ""
		}
		if !maps.Equal(got, want) || len(c.Set)+len(c.Secrets)+len(c.Delete) != len(want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// A value that stays must not keep the memory of the frame that it came in.
func TestValuesAreOnTheirOwn(t *testing.T) {
	large := make([]byte, 1<<20)
	payload, err := wire.Marshal(map[string]any{"set": map[string]any{"small": 1, "large": large}, "secrets": map[string]any{"key": "sk"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &store.Change{}
	if err := merge(c, payload); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string][]byte{"small": c.Set["small"], "key": c.Secrets["key"]} {
		if len(v) == 0 || cap(v) > 64 {
			t.Errorf("%s has %d bytes of %d", k, len(v), cap(v))
		}
	}
	clear(payload)
	if c.Set["small"][0] != 1 || c.Set["large"][0] != 0xc6 {
		t.Error("a value is in borrowed memory")
	}
}

func TestBadChanges(t *testing.T) {
	for name, payload := range map[string]string{
		"not a map":              "\x90",
		"another name":           "\x81\xa1x\x80",
		"set that is no map":     "\x81\xa3set\x01",
		"delete that is no list": "\x81\xa6delete\x80",
		"delete of a number":     "\x81\xa6delete\x91\x01",
		"an empty key":           "\x81\xa3set\x81\xa0\x01",
		"a key twice":            "\x81\xa3set\x82\xa1k\x01\xa1k\x02",
		"a name twice":           "\x82\xa3set\x80\xa3set\x80",
		"text that is not text":  "\x81\xa3set\x81\xa1k\xa1\xff",
	} {
		if err := merge(&store.Change{}, []byte(payload)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := merge(&store.Change{}, []byte("\x80")); err != nil {
		t.Errorf("a frame that changes nothing: %v", err)
	}
}

// Instants keep the monotonic clock's reading: that the wall clock jumps does not matter to them.
func TestExpiryGoesByTheMonotonicClock(t *testing.T) {
	p, err := pool.New(pool.Config{
		Name: "p", Starter: noStarter{}, Hello: func(string) ([]byte, error) { return nil, nil },
		Settings: pool.Settings{
			Size: 1, Concurrency: 1, Lazy: true, Pinning: pool.PinStrict,
			CheckoutTimeout: time.Hour, HealthInterval: time.Hour, HealthTimeout: time.Hour, StartTimeout: time.Hour,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := New(Config{Pool: p, Store: store.Memory{}, Settings: Settings{TTL: time.Hour, Max: 1, MaxState: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		p.Close(t.Context())
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}()
	var batch wire.Batch
	k := Key{Owner: "o", ID: "a"}
	table.Create(&batch, k, Options{}, func(_ *wire.Batch, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	s := table.sessions[k]
	for name, at := range map[string]time.Time{"created": s.created, "used": s.used, "expires": s.expires} {
		if at == at.Round(0) { //nolint:staticcheck // compares the readings, not the instants
			t.Errorf("%s has no monotonic reading", name)
		}
	}
}

type noStarter struct{ pool.Starter }

func TestIndex(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var x index
	have := map[Key]*session{}
	check := func() {
		t.Helper()
		want := slices.SortedFunc(maps.Keys(have), compare)
		var got []Key
		x.from(Key{}, func(s *session) bool { got = append(got, s.key); return true })
		if !slices.Equal(got, want) {
			t.Fatalf("%d sessions in the index, want %d", len(got), len(want))
		}
		for _, b := range x.blocks {
			if len(b) == 0 || len(b) > blockSize {
				t.Fatalf("a block of %d", len(b))
			}
		}
	}
	for i := range 20_000 {
		k := Key{Owner: fmt.Sprint("o", random.IntN(3)), ID: fmt.Sprint(random.IntN(4000))}
		if s := have[k]; s != nil && (i > 10_000 || random.IntN(3) == 0) {
			x.remove(s)
			x.remove(s) // once more does nothing
			delete(have, k)
		} else if s == nil && i < 15_000 {
			have[k] = &session{key: k}
			x.add(have[k])
		}
		if i%1000 == 0 {
			check()
		}
	}
	for k, s := range have {
		x.remove(s)
		delete(have, k)
	}
	check()
	if len(x.blocks) != 0 {
		t.Errorf("%d blocks are left", len(x.blocks))
	}
}
