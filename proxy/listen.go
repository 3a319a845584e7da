package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path that a Unix socket's address holds.
const maxPath = 107

// Socket is a listening Unix socket and its file. Make it with Bind; the Server accepts on it, and closes it.
type Socket struct {
	path string
	mode os.FileMode

	mu       sync.Mutex // guards what follows
	listener *net.UnixListener
	inode    uint64
	closed   bool
}

// Bind makes the socket. Clients that connect wait in it until a Server accepts. A stale file is taken over, a live socket is
// not.
func Bind(path string, mode os.FileMode) (*Socket, error) {
	s := &Socket{path: path, mode: mode}
	_, err := s.open()
	return s, err
}

// open makes the socket, anew where there was one; nil where it was closed meanwhile.
func (s *Socket) open() (*net.UnixListener, error) {
	l, err := listen(s.path, s.mode)
	if err != nil {
		return nil, err
	}
	inode, _ := identity(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		unlink(s.path, inode)
		_ = l.Close()   // nobody has used it
		return nil, nil //nolint:nilnil // nothing is wrong, and nothing is there
	}
	if s.listener != nil {
		_ = s.listener.Close() // nobody can reach it any more
	}
	s.listener, s.inode = l, inode
	return l, nil
}

// Listener is for those who serve something else on a socket that is made with the same care.
func (s *Socket) Listener() net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

// Guard makes the socket again when somebody removes or replaces its file, until done is closed. serve is given each one.
func (s *Socket) Guard(done <-chan struct{}, log *slog.Logger, serve func(*net.UnixListener)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if !s.lost() {
			said = ""
			continue
		}
		l, err := s.open()
		switch {
		case err != nil && err.Error() != said: // once, and not each second
			said = err.Error()
			log.Error("socket file was removed or replaced and cannot be made again: clients do not find the sidecar", "error", said)
		case l != nil:
			log.Warn("socket file was removed and has been made again", "socket", s.path)
			serve(l)
		}
	}
}

// lost says whether somebody removed the file of a socket that is to be there, or put another in its place.
func (s *Socket) lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	inode, there := identity(s.path)
	return (!there || inode != s.inode) && !s.closed
}

// Close takes the file away, if it is still this socket's, and ends accepting.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	unlink(s.path, s.inode) // first: with the socket gone, another file may get its inode
	_ = s.listener.Close()  // ends accept
}

// listen makes a listening socket, whose file has its mode from the first moment.
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
	l, err := listenAs(path, mode)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

// listenAs gives the socket its mode before it has a file: the file is made with it, less the umask, and what the umask
// took is given back. The process's umask is not touched, which would reach files that others make at that moment.
func listenAs(path string, mode os.FileMode) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode.Perm())) }), err)
	}}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a Unix socket became a %T", listener), listener.Close())
	}
	l.SetUnlinkOnClose(false) // it may be another's by then
	if err := os.Chmod(path, mode.Perm()); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
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

// peerOf says who is at the other end of a client's socket.
func peerOf(sock *net.UnixConn) (*unix.Ucred, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	control := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(err, control)
}

// temporary says whether an accept that failed may work again.
func temporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
