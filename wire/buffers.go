package wire

import (
	"fmt"
	"syscall"
)

// socketBuffer is asked for in both directions: with less, large frames go in many small pieces.
const socketBuffer = 2 << 20

// WidenBuffers asks the kernel for socket buffers that large frames fit through. It may grant less, which costs speed alone;
// the error is of a socket that is closed.
func WidenBuffers(socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			for _, option := range [...]struct{ beyondLimit, within int }{
				{syscall.SO_SNDBUFFORCE, syscall.SO_SNDBUF}, {syscall.SO_RCVBUFFORCE, syscall.SO_RCVBUF},
			} {
				if syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option.beyondLimit, socketBuffer) != nil {
					_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option.within, socketBuffer)
				}
			}
		})
	}
	if err != nil {
		return fmt.Errorf("widening the buffers of a socket: %w", err)
	}
	return nil
}
