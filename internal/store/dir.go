package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// file is what the store asks of one that it writes.
type file interface {
	io.Closer
	WriteAt(b []byte, at int64) (int, error)
	Sync() error
	Truncate(size int64) error
}

type opener func(path string, flags int) (file, error)

// diskFile syncs what is needed to read the data again, and not times.
type diskFile struct{ *os.File }

func openDisk(path string, flags int) (file, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (f diskFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockDir makes the directory where it is not there, and holds it until the file returned is closed, by whatever end of the process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := refuseForeign(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another process: a store serves one at a time", dir)
		}
		return nil, fmt.Errorf("%s cannot be locked: %w", dir, err)
	}
	return lock, nil
}

// refuseForeign keeps the store out of a directory that holds something else.
func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	foreign := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == lockName, name == tailName, strings.HasSuffix(name, suffix):
			return nil
		case name == "lost+found": // an empty file system of its own is a good place
		default:
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("%s holds what is not a store's (%q): name an empty directory, or one that does not exist", dir, foreign)
	}
	return nil
}
