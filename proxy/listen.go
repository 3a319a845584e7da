package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path that a Unix socket's address holds.
const maxPath = 107

// socketBuffer is asked for on both directions: with less, large frames go in many small pieces.
const socketBuffer = 2 << 20

// listen makes the socket, with its mode from the first moment. A stale file is taken over, a live socket is not.
func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("listening on %s: the path has %d bytes, a Unix socket's may have %d: choose a shorter listen.socket", path, len(path), maxPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("listening on %s: its folder cannot be made: %w", path, err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	defer lock.Close()
	if err := checkFolder(lock); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	// Two sidecars that start at once must not both find the other's file stale.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("listening on %s: locking its folder: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	old := unix.Umask(0o777 &^ int(mode.Perm()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it may be another's by then
	return l, nil
}

func checkFolder(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("its folder: %w", err)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("the folder %s may be written by everybody (mode %o), who could put another socket there: use a folder of your own",
			dir.Name(), info.Mode().Perm())
	}
	return nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is a file of that name which is no socket: remove it, or choose another listen.socket")
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return errors.New("another process listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("there is a socket that cannot be tried: %w", err)
	}
	return os.Remove(path)
}

// identity tells a socket file from another one at the same path.
func identity(path string) (uint64, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, false
	}
	return st.Ino, true
}

// unlink removes the socket file if it is still the one that was made.
func unlink(path string, inode uint64) {
	if now, ok := identity(path); ok && now == inode {
		_ = os.Remove(path) // a leftover is taken over at the next start
	}
}

// prepare sets a client's socket up and says who is at its other end.
func prepare(sock *net.UnixConn) (*unix.Ucred, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		for _, opt := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt[0], socketBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt[1], socketBuffer)
			}
		}
	})
	return cred, errors.Join(err, cerr)
}

// temporary says whether an accept that failed may work again.
func temporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "too many open files")
}
