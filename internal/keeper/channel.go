package keeper

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
	// maxMessage is the longest message in bytes. A start request holds a child's arguments and environment.
	maxMessage = 128 << 10
	// maxFiles is the most descriptors that one message can carry (SCM_MAX_FD in the kernel).
	maxFiles = 253
)

// channel is one end of the control channel. send may be called by several goroutines, receive by one.
type channel struct {
	conn        *net.UnixConn
	sendTimeout time.Duration // how long the other end may leave its queue full; 0: for ever
	in          []byte
	oob         []byte
}

// newChannel takes over a descriptor of a SOCK_SEQPACKET socket and closes the file.
func newChannel(file *os.File) (*channel, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok || packets.LocalAddr().Network() != "unixpacket" {
		return nil, errors.Join(errors.New("control channel: not a packet socket"), conn.Close())
	}
	// A packet must fit the sender's buffer whole, with the kernel's own bookkeeping.
	if err := packets.SetWriteBuffer(2 * maxMessage); err != nil {
		return nil, errors.Join(fmt.Errorf("control channel: %w", err), conn.Close())
	}
	return &channel{conn: packets, in: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4*maxFiles))}, nil
}

// send writes one message with descriptors, which stay the caller's. An error that is os.ErrDeadlineExceeded means
// that the other end has stopped reading.
func (c *channel) send(m *message, files []int) error {
	packet, err := msgpack.Marshal(m)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	if len(packet) > maxMessage {
		return fmt.Errorf("control message: %d bytes, at most %d fit: shorten the arguments or the environment",
			len(packet), maxMessage)
	}
	if len(files) > maxFiles {
		return fmt.Errorf("control message: %d descriptors, at most %d can be passed", len(files), maxFiles)
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if c.sendTimeout > 0 {
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.sendTimeout)); err != nil {
			return fmt.Errorf("control channel: %w", err)
		}
	}
	if _, _, err := c.conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	return nil
}

// receive reads one message with its descriptors, which become the caller's and are closed on exec. The error is
// io.EOF when the other end is closed.
func (c *channel) receive() (*message, []int, error) {
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.in, c.oob)
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF // the other end closed with messages unread
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := parseRights(c.oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errLostFiles
	}
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = fmt.Errorf("control message: longer than %d bytes", maxMessage)
	}
	var m message
	if decodeErr := msgpack.Unmarshal(c.in[:n], &m); decodeErr != nil {
		err = errors.Join(err, fmt.Errorf("control message: %w", decodeErr))
	}
	if err != nil {
		closeAll(files)
		return &m, nil, err
	}
	return &m, files, nil
}

// errLostFiles means that this process had no room for the descriptors of a message; the message itself is whole.
var errLostFiles = errors.New("control message: no descriptors left to take the passed ones (raise the limit on open files)")

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []int
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("control message: %w", err)
		}
		files = append(files, fds...)
	}
	return files, nil
}

func closeAll(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd) // a descriptor given up: nothing is left to do about an error
	}
}
