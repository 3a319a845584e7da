//go:build !race

package wire

import (
	"syscall"
	"unsafe"
)

// briefly bounds the bytes of a system call that the scheduler is not told of.
const briefly = 64 << 10

// readNow and writeNow are read(2) and write(2) on a socket that does not block. For a few bytes the scheduler is not told that
// this goroutine is in the kernel: it is back sooner than another thread could take over, and sysmon has nothing to take back.
func readNow(fd uintptr, b []byte) (int, error) {
	if len(b) == 0 || len(b) > briefly {
		return syscall.Read(int(fd), b)
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))) //nolint:gosec // used within the call
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func writeNow(fd uintptr, b []byte) (int, error) {
	if len(b) == 0 || len(b) > briefly {
		return syscall.Write(int(fd), b)
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))) //nolint:gosec // used within the call
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
