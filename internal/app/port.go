package app

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspex/dspex-sidecar/internal/procs"
)

// port is a loopback port that is kept for a server of the sidecar's own: a socket is bound to it that never listens. So the
// system gives it to nobody, neither before the server has begun to listen nor between two runs of it. A server takes it
// with SO_REUSEADDR or SO_REUSEPORT, one of which nearly all set.
type port struct {
	fd     int
	number int
}

func reservePort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("choosing a port: %w", err)
	}
	p := &port{fd: fd}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err == nil {
		var bound unix.Sockaddr
		bound, err = unix.Getsockname(fd)
		if inet, ok := bound.(*unix.SockaddrInet4); ok {
			p.number = inet.Port
		}
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("choosing a port: %w", err)
	}
	return p, nil
}

func (p *port) close() { _ = unix.Close(p.fd) }

func (p *port) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

// servedBy says whether all that listen at the port are processes of the tree under pid: another one that took it in spite of
// all would be sent prompts, and the key.
func (p *port) servedBy(pid int) (bool, error) {
	listeners, err := p.listeners()
	if err != nil || len(listeners) == 0 {
		return false, err
	}
	table, err := procs.Read()
	if err != nil {
		return false, err
	}
	tree := append(table.Below(pid, nil), table[pid])
	for _, process := range tree {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", process.PID))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		for _, file := range open {
			// One that is closed meanwhile leads nowhere.
			target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", process.PID, file.Name()))
			delete(listeners, target)
		}
	}
	return len(listeners) == 0, nil
}

// listeners are the sockets that listen at the port, as links in /proc name them.
func (p *port) listeners() (map[string]struct{}, error) {
	found := make(map[string]struct{})
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		file, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			// sl, local_address, rem_address, st, queues, timer, retransmits, uid, timeout, inode: see proc(5)
			const local, state, inode, listening = 1, 3, 9, "0A"
			fields := strings.Fields(lines.Text())
			if len(fields) > inode && fields[state] == listening && strings.HasSuffix(fields[local], fmt.Sprintf(":%04X", p.number)) {
				found["socket:["+fields[inode]+"]"] = struct{}{}
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}
