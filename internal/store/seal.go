package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

const keyIDSize = 8

// sealer seals secrets with AES-256-GCM; nil seals none. A sealed value is the key's id, the nonce and what GCM makes; it opens for
// its session and its name only.
type sealer struct {
	id  [keyIDSize]byte
	gcm cipher.AEAD
}

var (
	errOtherKey = errors.New("sealed with another key")
	errUnseal   = errors.New("a secret is not what was sealed")
)

func newSealer(key []byte) (*sealer, error) {
	if key == nil {
		return nil, nil //nolint:nilnil // no key is no sealer
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("the key that seals secrets has %d bytes: 32 are needed", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &sealer{}
	sum := sha256.Sum256(append([]byte("dspex key id\x00"), key...))
	copy(s.id[:], sum[:])
	s.gcm, err = cipher.NewGCMWithRandomNonce(block)
	return s, err
}

func bound(number uint64, name string) []byte {
	return append(binary.LittleEndian.AppendUint64([]byte("dspex secret\x00"), number), name...)
}

// seal makes entries of secrets.
func (s *sealer) seal(number uint64, secrets map[string][]byte) []entry {
	entries := make([]entry, 0, len(secrets))
	for name, value := range secrets {
		if s == nil {
			entries = append(entries, entry{key: name, form: nameOnly})
			continue
		}
		box := make([]byte, keyIDSize, keyIDSize+s.gcm.Overhead()+len(value))
		copy(box, s.id[:])
		box = s.gcm.Seal(box, nil, value, bound(number, name)) //nolint:gosec // this AEAD makes its own random nonce
		entries = append(entries, entry{key: name, value: box, form: sealed})
	}
	return entries
}

func (s *sealer) open(number uint64, e entry) ([]byte, error) {
	if s == nil || len(e.value) < keyIDSize || [keyIDSize]byte(e.value) != s.id {
		return nil, errOtherKey
	}
	value, err := s.gcm.Open([]byte{}, nil, e.value[keyIDSize:], bound(number, e.key))
	if err != nil {
		return nil, errUnseal
	}
	return value, nil
}

// keep turns a record into what is kept of it.
func (s *sealer) keep(r *Record) *kept {
	k := &kept{
		number: r.Number, owner: r.Owner, id: r.ID, labels: maps.Clone(r.Labels), ttl: r.TTL, maxAge: r.MaxAge, started: r.Started,
		version: r.Version, answers: slices.Clone(r.Answers), spent: r.Spent, left: r.Left,
	}
	k.entries = make([]entry, 0, len(r.State)+len(r.Secrets)+len(r.Lost))
	for key, value := range r.State {
		k.entries = append(k.entries, entry{key: key, value: value})
	}
	k.entries = append(k.entries, s.seal(r.Number, r.Secrets)...)
	for _, key := range r.Lost {
		k.entries = append(k.entries, entry{key: key, form: nameOnly})
	}
	slices.SortStableFunc(k.entries, func(a, b entry) int { return cmpKeys(a, b.key) })
	k.entries = slices.CompactFunc(k.entries, func(a, b entry) bool { return a.key == b.key }) // an import may name a key twice
	return k
}

// change does so for a change.
func (s *sealer) change(c *Change) *delta {
	d := &delta{
		version: c.Version, reset: c.Reset, started: c.Started, remove: c.Delete, answers: slices.Clone(c.Answers), forget: c.Forget,
	}
	if c.Spent != nil {
		d.spent = new(*c.Spent)
	}
	for key, value := range c.Set {
		d.set = append(d.set, entry{key: key, value: value})
	}
	d.set = append(d.set, s.seal(c.Number, c.Secrets)...)
	return d
}

// record turns what is kept into a record of its own; the values are shared.
func (s *sealer) record(k *kept) (*Record, error) {
	r := &Record{
		Number: k.number, Owner: k.owner, ID: k.id, Labels: maps.Clone(k.labels), TTL: k.ttl, MaxAge: k.maxAge, Started: k.started,
		Version: k.version, State: make(map[string][]byte, len(k.entries)), Answers: slices.Clone(k.answers), Spent: k.spent, Left: k.left,
	}
	for _, e := range k.entries {
		if e.form == plain {
			r.State[e.key] = e.value
			continue
		}
		value, err := s.open(k.number, e)
		switch {
		case e.form == nameOnly || errors.Is(err, errOtherKey):
			r.Lost = append(r.Lost, e.key)
		case err != nil:
			return nil, fmt.Errorf("%w: %q", err, e.key)
		default:
			if r.Secrets == nil {
				r.Secrets = map[string][]byte{}
			}
			r.Secrets[e.key] = value
		}
	}
	return r, nil
}
