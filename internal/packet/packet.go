// Package packet owns a socket between two processes of one release on which each packet is one MessagePack value, with
// descriptors beside it (SCM_RIGHTS). It does not know what the values mean.
package packet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sys/unix"
)

const (
	// maxPacket is the longest packet in bytes. A request to start a process holds its arguments and environment.
	maxPacket = 128 << 10
	// maxFiles is the most descriptors that one packet can carry (SCM_MAX_FD in the kernel).
	maxFiles = 253
)

// Socket is one end of such a socket. Send may be called by several goroutines, Receive by one.
type Socket struct {
	conn        *net.UnixConn
	sendTimeout time.Duration
	in          []byte
	oob         []byte
}

// Pair makes a socket and the file that the other process inherits. sendTimeout is how long the other end may leave its queue
// full before Send fails (0: for ever).
func Pair(sendTimeout time.Duration) (*Socket, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	own, err := Take(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	own.sendTimeout = sendTimeout
	return own, theirs, nil
}

// Take takes over a descriptor of a SOCK_SEQPACKET socket and closes the file.
func Take(file *os.File) (*Socket, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok || packets.LocalAddr().Network() != "unixpacket" {
		return nil, errors.Join(errors.New("control socket: not a packet socket"), conn.Close())
	}
	// A packet must fit the sender's buffer whole, with the kernel's own bookkeeping.
	if err := packets.SetWriteBuffer(2 * maxPacket); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), conn.Close())
	}
	return &Socket{conn: packets, in: make([]byte, maxPacket), oob: make([]byte, unix.CmsgSpace(4*maxFiles))}, nil
}

// Send writes one value with descriptors, which stay the caller's. An error that is os.ErrDeadlineExceeded means that the
// other end has stopped reading.
func (s *Socket) Send(value any, files ...int) error {
	packet, err := msgpack.Marshal(value)
	if err != nil {
		return fmt.Errorf("control packet: %w", err)
	}
	if len(packet) > maxPacket {
		return fmt.Errorf("control packet: %d bytes, at most %d fit: shorten the arguments or the environment", len(packet), maxPacket)
	}
	if len(files) > maxFiles {
		return fmt.Errorf("control packet: %d descriptors, at most %d can be passed", len(files), maxFiles)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if s.sendTimeout > 0 {
		if err := s.conn.SetWriteDeadline(time.Now().Add(s.sendTimeout)); err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
	}
	if _, _, err := s.conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Receive reads one value with its descriptors, which become the caller's and are closed on exec. The error is io.EOF
// when the other end is closed, and a *PacketError where a packet came that cannot be used: what of it could be read is in value.
func (s *Socket) Receive(value any) ([]int, error) {
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(s.in, s.oob)
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF // the other end closed with packets unread
	}
	if err != nil {
		return nil, err
	}
	files, err := parseRights(s.oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errLostFiles
	}
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = fmt.Errorf("longer than %d bytes", maxPacket)
	}
	if decodeErr := msgpack.Unmarshal(s.in[:n], value); decodeErr != nil {
		err = errors.Join(err, decodeErr)
	}
	if err != nil {
		CloseFiles(files)
		return nil, &PacketError{err}
	}
	return files, nil
}

// Close closes this end; the other's Receive says io.EOF.
func (s *Socket) Close() error { return s.conn.Close() }

// CloseRead ends this end's Receive, CloseWrite the other's.
func (s *Socket) CloseRead() error { return s.conn.CloseRead() }

// CloseWrite is end of file for the other end.
func (s *Socket) CloseWrite() error { return s.conn.CloseWrite() }

// PacketError is one packet that cannot be used; the next ones may be.
type PacketError struct{ err error }

func (e *PacketError) Error() string { return "control packet: " + e.err.Error() }

func (e *PacketError) Unwrap() error { return e.err }

// errLostFiles means that this process had no room for the descriptors of a packet; the packet itself is whole.
var errLostFiles = errors.New("no descriptors left to take the passed ones (raise the limit on open files)")

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []int
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		files = append(files, fds...)
	}
	return files, nil
}

// CloseFiles gives descriptors up.
func CloseFiles(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd) // nothing is left to do about an error
	}
}
