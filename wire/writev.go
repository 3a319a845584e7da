package wire

import (
	"syscall"
	"unsafe"
)

// writeSegments bounds the segments of one write.
const writeSegments = 16

// writev writes the first of bufs, none of which is empty, in one system call, and returns how many bytes were taken. The
// standard library offers that only together with waiting.
func writev(fd uintptr, bufs [][]byte) (int, error) {
	var vectors [writeSegments]syscall.Iovec
	n := min(len(bufs), writeSegments)
	for i, b := range bufs[:n] {
		vectors[i].Base = unsafe.SliceData(b) //nolint:gosec // it lives until the call returns: bufs holds it
		vectors[i].SetLen(len(b))
	}
	//nolint:gosec // what writev takes: a pointer that is used within the call
	written, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vectors)), uintptr(n))
	if errno != 0 {
		return 0, errno
	}
	return int(written), nil
}
