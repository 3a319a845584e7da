package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// await runs one operation to its end.
func await(begin func(done func(error)) (bool, error)) error {
	ended := make(chan error, 1)
	if now, err := begin(func(err error) { ended <- err }); now {
		return err
	}
	return <-ended
}

func create(s Store, r *Record) error {
	return await(func(done func(error)) (bool, error) { return s.Create(r, done) })
}

func commit(s Store, c *Change) error {
	return await(func(done func(error)) (bool, error) { return s.Commit(c, done) })
}

func drop(s Store, number uint64) error {
	return await(func(done func(error)) (bool, error) { return s.Delete(number, done) })
}

func keepLeft(s Store, left map[uint64]Left) error {
	return await(func(done func(error)) (bool, error) { return s.KeepLeft(left, done) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// opened is a store that has been loaded, and what that gave.
type opened struct {
	*File

	records map[uint64]*Record
	damage  []Damage
}

func reopen(t testing.TB, dir string, opts Options) *opened {
	t.Helper()
	o, err := tryOpen(dir, opts)
	must(t, err)
	t.Cleanup(func() { o.Close() }) //nolint:errcheck // most tests have closed it, and looked
	return o
}

func tryOpen(dir string, opts Options) (*opened, error) {
	f, err := OpenFile(dir, opts)
	if err != nil {
		return nil, err
	}
	o := &opened{File: f, records: map[uint64]*Record{}}
	if o.damage, err = f.Load(func(r *Record) error { o.records[r.Number] = r; return nil }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

// plainly is a record in a form that compares: nothing empty, all in order.
func plainly(r *Record) string {
	c := *r
	if len(c.Labels) == 0 {
		c.Labels = nil
	}
	c.Lost = slices.Sorted(slices.Values(c.Lost))
	c.Answers = slices.SortedFunc(slices.Values(c.Answers), func(a, b Answer) int {
		return bytes.Compare([]byte(a.Method+"\x00"+a.Key), []byte(b.Method+"\x00"+b.Key))
	})
	answers := ""
	for _, a := range c.Answers {
		answers += fmt.Sprintf("%v|%x|%q nil %v|%v;", a.AnswerKey, a.Params[:4], a.Outcome, a.Outcome == nil, a.Left)
	}
	c.Answers = nil
	state, secrets := texts(c.State), texts(c.Secrets)
	c.State, c.Secrets = nil, nil
	return fmt.Sprintf("%+v state %v secrets %v answers %s", c, state, secrets, answers)
}

func texts(m map[string][]byte) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = string(v)
	}
	return out
}

func sameRecord(t testing.TB, got, want *Record) {
	t.Helper()
	switch {
	case got == nil && want == nil:
	case got == nil || want == nil:
		t.Errorf("got %+v, want %+v", got, want)
	case plainly(got) != plainly(want):
		t.Errorf("session %d:\n got %s\nwant %s", want.Number, plainly(got), plainly(want))
	}
}

func sameRecords(t testing.TB, got, want map[uint64]*Record) {
	t.Helper()
	for number, r := range want {
		sameRecord(t, got[number], r)
	}
	for number, r := range got {
		if want[number] == nil {
			t.Errorf("session %d is there: %+v", number, r)
		}
	}
}

// mapStore is the plainest store there is: what the contract says, in a map.
type mapStore struct{ records map[uint64]*Record }

func (m *mapStore) Load(each func(*Record) error) ([]Damage, error) {
	for _, r := range m.records {
		if err := each(r); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (m *mapStore) Create(r *Record, _ func(error)) (bool, error) {
	if m.records[r.Number] != nil {
		return true, fmt.Errorf("session %d is there", r.Number)
	}
	c := *r
	c.State, c.Secrets, c.Labels, c.Answers = maps.Clone(r.State), maps.Clone(r.Secrets), maps.Clone(r.Labels), slices.Clone(r.Answers)
	c.Lost = slices.Clone(r.Lost)
	if c.State == nil {
		c.State = map[string][]byte{}
	}
	m.records[r.Number] = &c
	return true, nil
}

func (m *mapStore) Commit(c *Change, _ func(error)) (bool, error) {
	r := m.records[c.Number]
	if r == nil || (c.Version != 0 && r.Version != c.Expected) {
		return true, fmt.Errorf("session %d is not there, or not at version %d", c.Number, c.Expected)
	}
	if c.Version != 0 {
		r.Version = c.Version
	}
	if c.Reset {
		r.State, r.Secrets, r.Lost, r.Started = nil, nil, nil, false
	}
	state, secrets := maps.Clone(r.State), maps.Clone(r.Secrets)
	if state == nil {
		state = map[string][]byte{}
	}
	if secrets == nil {
		secrets = map[string][]byte{}
	}
	for _, k := range c.Delete {
		delete(state, k)
		delete(secrets, k)
	}
	for k, v := range c.Set {
		state[k] = v
		delete(secrets, k)
	}
	for k, v := range c.Secrets {
		secrets[k] = v
		delete(state, k)
	}
	r.State, r.Secrets, r.Left.Idle = state, secrets, r.TTL
	r.Lost = slices.DeleteFunc(r.Lost, func(k string) bool {
		return state[k] != nil || secrets[k] != nil || slices.Contains(c.Delete, k)
	})
	r.Started = r.Started || c.Started
	for _, k := range c.Forget {
		r.Answers = slices.DeleteFunc(r.Answers, func(a Answer) bool { return a.AnswerKey == k })
	}
	for _, a := range c.Answers {
		r.Answers = slices.DeleteFunc(r.Answers, func(b Answer) bool { return b.AnswerKey == a.AnswerKey })
		r.Answers = append(r.Answers, a)
	}
	if c.Spent != nil {
		r.Spent = *c.Spent
	}
	return true, nil
}

func (m *mapStore) Delete(number uint64, _ func(error)) (bool, error) {
	delete(m.records, number)
	return true, nil
}

func (m *mapStore) KeepLeft(left map[uint64]Left, _ func(error)) (bool, error) {
	for number, l := range left {
		if r := m.records[number]; r != nil {
			r.Left = l
		}
	}
	return true, nil
}

func (m *mapStore) Close() error { return nil }

// crash is an end without Close.
func (m *mapStore) crash() {
	for _, r := range m.records {
		r.Left.Idle = r.TTL
	}
}

// user makes random operations that a session table could make, the same ones for the same seed.
type user struct {
	r        *rand.Rand
	next     uint64
	versions map[uint64]uint64
}

func newUser(seed uint64) *user {
	return &user{r: rand.New(rand.NewPCG(seed, 1)), next: 1, versions: map[uint64]uint64{}}
}

func (u *user) value() []byte {
	b := make([]byte, u.r.IntN(120))
	for i := range b {
		b[i] = byte(u.r.Uint32())
	}
	if u.r.IntN(20) == 0 {
		b = append(b, recordMagic...) // looks like a record, and is none
	}
	return b
}

func (u *user) values(n int) map[string][]byte {
	m := map[string][]byte{}
	for range u.r.IntN(n + 1) {
		m[fmt.Sprintf("k%d", u.r.IntN(8))] = u.value()
	}
	return m
}

func (u *user) record() *Record {
	number := u.next
	u.next++
	r := &Record{
		Number: number, Owner: fmt.Sprintf("uid:%d", u.r.IntN(3)), ID: fmt.Sprintf("s%d", number), TTL: time.Duration(u.r.IntN(9)) * time.Minute,
		MaxAge: time.Hour, Version: 1 + u.r.Uint64N(5), State: u.values(4), Secrets: map[string][]byte{"api": u.value()},
		Labels: map[string]string{"team": "a", "z": fmt.Sprint(number)}, Left: Left{Idle: time.Minute, Age: time.Hour},
	}
	if lost := "k7"; r.State[lost] == nil {
		r.Lost = []string{lost}
	}
	u.versions[number] = r.Version
	return r
}

func (u *user) change(number uint64) *Change {
	c := &Change{Number: number, Expected: u.versions[number], Spent: &Spent{Life: Amounts{Calls: 3, Tokens: -1, Cost: u.r.Float64()}, Day: 20000}}
	key := AnswerKey{Method: "m", Key: fmt.Sprint(u.r.IntN(4))}
	c.Answers = []Answer{{AnswerKey: key, Params: [32]byte{byte(u.r.IntN(200))}, Left: time.Minute}}
	if u.r.IntN(2) == 0 {
		c.Answers[0].Outcome = u.value()
	}
	if u.r.IntN(4) == 0 {
		c.Answers, c.Forget = nil, []AnswerKey{key}
	}
	if u.r.IntN(5) == 0 {
		return c // beside the state
	}
	c.Version = c.Expected + 1 + u.r.Uint64N(3)
	c.Set, c.Started, c.Reset = u.values(3), u.r.IntN(2) == 0, u.r.IntN(12) == 0
	for range u.r.IntN(3) {
		key := fmt.Sprintf("k%d", u.r.IntN(8))
		if _, set := c.Set[key]; set {
			continue
		}
		if u.r.IntN(2) == 0 {
			c.Delete = append(c.Delete, key)
		} else {
			c.Secrets = map[string][]byte{key: u.value()}
			break
		}
	}
	c.Delete = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(c.Delete))), func(k string) bool { _, s := c.Secrets[k]; return s })
	u.versions[number] = c.Version
	return c
}

// step does one thing to all stores, which have to agree about it.
func (u *user) step(t testing.TB, stores ...Store) {
	t.Helper()
	var do func(Store) error
	numbers := slices.Sorted(maps.Keys(u.versions))
	switch n := u.r.IntN(20); {
	case n < 4 || len(numbers) == 0:
		r := u.record()
		do = func(s Store) error { return create(s, r) }
	case n < 5:
		number := numbers[u.r.IntN(len(numbers))]
		delete(u.versions, number)
		do = func(s Store) error { return drop(s, number) }
	case n < 6:
		left := map[uint64]Left{}
		for range 5 {
			left[numbers[u.r.IntN(len(numbers))]] = Left{Idle: time.Duration(u.r.IntN(100)) * time.Second, Age: time.Hour}
		}
		left[1<<40] = Left{Idle: 1}
		do = func(s Store) error { return keepLeft(s, left) }
	default:
		c := u.change(numbers[u.r.IntN(len(numbers))])
		do = func(s Store) error { return commit(s, c) }
	}
	for _, s := range stores {
		if err := do(s); err != nil {
			t.Fatalf("%T: %v", s, err)
		}
	}
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	return slices.DeleteFunc(names, func(name string) bool { return filepath.Base(name) == lockName })
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(playsWriter); dir != "" {
		fmt.Println("error", writer(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func sortedNames(m map[string][]byte) []string { return slices.Sorted(maps.Keys(m)) }

func goldenSegments(t testing.TB) []segmentData {
	t.Helper()
	segments, err := listSegments(filepath.Join("testdata", "format1"))
	must(t, err)
	var all []segmentData
	for _, s := range segments {
		data, err := os.ReadFile(s.path)
		must(t, err)
		all = append(all, segmentData{s.number, data})
	}
	return all
}
