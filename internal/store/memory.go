package store

// Memory keeps nothing beyond the process: the session table's own copy is all there is.
type Memory struct{}

// Load finds nothing.
func (Memory) Load(func(*Record) error) ([]Damage, error) { return nil, nil }

// Create is done at once.
func (Memory) Create(*Record, func(error)) (now bool, err error) { return true, nil }

// Commit is done at once.
func (Memory) Commit(*Change, func(error)) (now bool, err error) { return true, nil }

// Delete is done at once.
func (Memory) Delete(uint64, func(error)) (now bool, err error) { return true, nil }

// KeepLeft is done at once.
func (Memory) KeepLeft(map[uint64]Left, func(error)) (now bool, err error) { return true, nil }

// Close has nothing to do.
func (Memory) Close() error { return nil }
