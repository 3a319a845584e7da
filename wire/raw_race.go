//go:build race

package wire

import "syscall"

// The race detector learns from these calls that what was written to a socket happened before it was read.

func readNow(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

func writeNow(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }
