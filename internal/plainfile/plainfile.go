// Package plainfile opens files that are read whole, such as a configuration or a secret. It owns the rule that nothing else is opened in their place: a FIFO
// would hold its reader up without end, and can be read once only. It does not limit how much is read.
package plainfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Open opens a regular file for reading. The error of another kind of file says of which kind it is.
func Open(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // without waiting for somebody who writes into a FIFO
	if err != nil {
		if errors.Is(err, syscall.ENXIO) {
			err = &fs.PathError{Op: "open", Path: path, Err: errors.New("it is a socket or a device: give the path of a regular file")}
		}
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is %s: give the path of a regular file", kind(info.Mode()))}
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "no file"
}
