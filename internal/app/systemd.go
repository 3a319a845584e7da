package app

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// notifier tells the service manager how it stands, in the protocol of sd_notify(3): one datagram of lines a message. It does nothing where nobody asked for it.
type notifier struct {
	address  string
	watchdog time.Duration // the service is ended if it says nothing for so long; 0: it is not

	mu     sync.Mutex // guards what follows
	conn   *net.UnixConn
	up     bool
	ending bool
	said   string
}

// newNotifier reads what the manager has put into the environment.
func newNotifier(environ []string, pid int) *notifier {
	n := &notifier{}
	var watchdog, of string
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch name {
		case "NOTIFY_SOCKET":
			n.address = value
		case "WATCHDOG_USEC":
			watchdog = value
		case "WATCHDOG_PID":
			of = value
		}
	}
	if us, err := strconv.ParseInt(watchdog, 10, 64); err == nil && us > 0 && (of == "" || of == strconv.Itoa(pid)) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// look is how often the service has to look at itself, so that the manager hears from it in time.
func (n *notifier) look() time.Duration {
	if n.watchdog > 0 {
		return min(n.watchdog/3, time.Second)
	}
	return time.Second
}

// looked says that the service lives and how it is, and, the first time that it is up, that it is ready.
func (n *notifier) looked(status string, up bool) {
	if n.address == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	if up && !n.up && !n.ending {
		n.up = true
		lines = append(lines, "READY=1")
	}
	if status != n.said && !n.ending { // which it is told already
		n.said = status
		lines = append(lines, "STATUS="+status)
	}
	if n.watchdog > 0 {
		lines = append(lines, "WATCHDOG=1")
	}
	if len(lines) > 0 {
		n.sendLocked(lines)
	}
}

// reloading says that a reload has begun; what it returns says that it has ended. The time tells a manager of Type=notify-reload whether it is the one that it asked for.
func (n *notifier) reloading() (done func()) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	n.whileUp("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
	return func() { n.whileUp("READY=1") }
}

// whileUp sends the lines where the manager takes the service to be ready, and not to be ending.
func (n *notifier) whileUp(lines ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up && !n.ending {
		n.sendLocked(lines)
	}
}

// stopping says that the end has begun, and that it may take so long.
func (n *notifier) stopping(limit time.Duration) {
	if n.address == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ending = true
	n.sendLocked([]string{"STOPPING=1", "STATUS=draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (limit + 5*time.Second).Microseconds())})
}

// sendLocked sends without waiting for anything: a datagram to a socket of the same machine. A manager that does not listen misses it.
func (n *notifier) sendLocked(lines []string) {
	if n.conn == nil {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.address, Net: "unixgram"}) // "@" begins an abstract one, in Go as here
		if err != nil {
			return
		}
		n.conn = conn
	}
	_ = n.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := n.conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		_ = n.conn.Close()
		n.conn = nil
	}
}

func (n *notifier) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		_ = n.conn.Close()
		n.conn = nil
	}
}
