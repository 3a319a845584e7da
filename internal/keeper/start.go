package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// start runs a program as a child with its own session, no signal blocked or ignored, and the descriptors given:
// /dev/null as standard input, and as standard output and error where none came with the request.
func (k *keeper) start(request *startRequest, files []int) answer {
	null := int(k.null.Fd())
	standard := []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	for i, given := range []bool{request.Stdout, request.Stderr} {
		if given {
			if len(files) == 0 {
				return answer{Reason: "a descriptor is missing", Errno: int(unix.EBADF)}
			}
			standard[i+1], files = uintptr(files[0]), files[1:]
		}
	}
	for _, fd := range files {
		standard = append(standard, uintptr(fd))
	}
	path, err := findProgram(request)
	if err != nil {
		return startFailed(request, path, err)
	}
	pid, err := forkExec(path, request.Argv, &syscall.ProcAttr{
		Dir:   request.Dir,
		Env:   request.Env,
		Files: standard,
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return startFailed(request, path, err)
	}
	return answer{PID: pid}
}

// forkExec is syscall.ForkExec with an empty signal mask: a child inherits that of the thread that starts it, and
// ours comes from whoever started the sidecar. Handlers need no care, exec resets them, and holdSignals has put
// handlers where signals were ignored.
func forkExec(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var none, before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, &before); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	return pid, errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

// findProgram returns the path of argv[0]: as it is with a slash in it, else out of the PATH of the child's own
// environment. The path comes with an error too where there is one to name.
func findProgram(request *startRequest) (string, error) {
	if len(request.Argv) == 0 || request.Argv[0] == "" {
		return "", unix.EINVAL
	}
	name := request.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	failed := error(unix.ENOENT)
	for _, variable := range request.Env {
		list, ok := strings.CutPrefix(variable, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if !filepath.IsAbs(path) {
				continue // a program out of the working directory is started by saying so
			}
			if err := executable(path); err == nil {
				return path, nil
			} else if !errors.Is(err, unix.ENOENT) {
				failed = err
			}
		}
	}
	return name, failed
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.EISDIR
	}
	return unix.Access(path, unix.X_OK)
}

// startFailed says why a start failed. The kernel gives one number for several causes, so the likely ones are
// looked at again.
func startFailed(request *startRequest, path string, err error) answer {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = unix.EINVAL
	}
	a := answer{Path: path, Errno: int(errno), Reason: err.Error()}
	if info, statErr := os.Stat(request.Dir); statErr != nil || !info.IsDir() || unix.Access(request.Dir, unix.X_OK) != nil {
		a.Path, a.Reason = request.Dir, "the working directory cannot be entered"
		switch {
		case statErr != nil:
			a.Reason = "the working directory cannot be entered: " + causeOf(statErr).Error()
		case !info.IsDir():
			a.Reason = "the working directory is no directory"
		}
		return a
	}
	if len(request.Argv) > 0 && !strings.Contains(request.Argv[0], "/") && errno == unix.ENOENT {
		a.Reason = "no such program in the PATH of its environment"
		return a
	}
	onDisk := path
	if !filepath.IsAbs(onDisk) {
		onDisk = filepath.Join(request.Dir, onDisk)
	}
	found := executable(onDisk)
	switch {
	case path == "":
		a.Reason = "no program is named"
	case errors.Is(found, unix.EISDIR):
		a.Reason = "is a directory, not a program"
	case errno == unix.ENOENT && found == nil:
		a.Reason = "the file is there, but not its interpreter (first line) or loader"
	case errno == unix.ENOENT:
		a.Reason = "no such file"
	case errno == unix.EACCES:
		a.Reason = "permission denied: not executable for this user, or on a file system mounted noexec"
	case errno == unix.ENOEXEC:
		a.Reason = "not a program for this machine (a script needs a first line with its interpreter)"
	case errno == unix.E2BIG:
		a.Reason = "arguments and environment are too long for the kernel"
	case errno == unix.EAGAIN:
		a.Reason = "no more processes allowed (limit of the user or of the container)"
	case errno == unix.ENOMEM:
		a.Reason = "no memory for another process"
	}
	return a
}

func causeOf(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// StartError says which program could not be started (or process not adopted) and why. It unwraps to the system's
// error number, so errors.Is(err, fs.ErrNotExist) and fs.ErrPermission work.
type StartError struct {
	Path   string // program or working directory; "" for an adoption
	Reason string
	Errno  syscall.Errno
}

func (e *StartError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return fmt.Sprintf("cannot start %s: %s", e.Path, e.Reason)
}

func (e *StartError) Unwrap() error { return e.Errno }
