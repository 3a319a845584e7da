package wire_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

// documented reads the table of codes in docs/protocol.md.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Errors\n")
	section, _, _ = strings.Cut(section, "\n## ")
	codes := make(map[string]bool)
	name := regexp.MustCompile("`([a-z_]+)`")
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 3 || !strings.HasPrefix(cells[0], "| `") {
			continue
		}
		for _, match := range name.FindAllStringSubmatch(cells[0], -1) {
			codes[match[1]] = cells[2] == "yes |"
		}
	}
	if len(codes) < 25 {
		t.Fatalf("the table of codes was not understood: %v", codes)
	}
	return codes
}

func TestCodesAreThoseOfTheProtocol(t *testing.T) {
	want := documented(t)
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		code, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Error(err)
		}
		got[code] = wire.Errorf(wire.Code(code), "").Retryable
		return true
	})
	delete(got, string(wire.CodeStaleSession))   // of the worker channel
	delete(got, string(wire.CodeTurnWanted))     // likewise
	delete(got, string(wire.CodeConnectionLost)) // of clients
	if !maps.Equal(got, want) {
		t.Errorf("codes and whether they are retryable:\n%v\nwant those of docs/protocol.md:\n%v", got, want)
	}
}

func TestCodesOfPython(t *testing.T) {
	source := filepath.Join("..", "clients", "python", "src", "dspex", "errors.py")
	if _, err := os.Stat(source); err != nil {
		t.Skip("the Python client is not there:", err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not there:", err)
	}
	const script = `import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("errors", sys.argv[1])
errors = importlib.util.module_from_spec(spec)
sys.modules["errors"] = errors
spec.loader.exec_module(errors)
print(json.dumps({code: errors.DspexError(code=code).retryable for code in errors.CODES}))`
	out, err := exec.CommandContext(t.Context(), python, "-B", "-c", script, source).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]bool
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if lost := string(wire.CodeConnectionLost); got[lost] != wire.Errorf(wire.CodeConnectionLost, "").Retryable {
		t.Errorf("%s is retryable in one language alone", lost)
	}
	for _, own := range []string{string(wire.CodeConnectionLost), "invalid_result"} { // what clients say of themselves
		if _, there := got[own]; !there {
			t.Errorf("%s is missing", own)
		}
		delete(got, own)
	}
	if want := documented(t); !maps.Equal(got, want) {
		t.Errorf("codes of Python and whether they are retryable:\n%v\nwant those of docs/protocol.md:\n%v", got, want)
	}
}

func TestFromError(t *testing.T) {
	own := wire.Errorf(wire.CodeQueueFull, "full")
	for _, c := range []struct {
		err  error
		want wire.Code
	}{
		{own, wire.CodeQueueFull},
		{fmt.Errorf("somewhere: %w", own), wire.CodeQueueFull},
		{context.Canceled, wire.CodeCancelled},
		{fmt.Errorf("somewhere: %w", context.DeadlineExceeded), wire.CodeDeadlineExceeded},
		{io.EOF, wire.CodeConnectionLost},
		{&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, wire.CodeConnectionLost},
		{net.ErrClosed, wire.CodeConnectionLost},
		{wire.ErrSlowReader, wire.CodeConnectionLost},
		{wire.ErrFrameTimeout, wire.CodeInvalidFrame},
		{wire.Scan([]byte{0xc1}), wire.CodeInvalidFrame},
		{&wire.FrameError{ID: 1, Message: "no"}, wire.CodeInvalidFrame},
		{&wire.TooLongError{Length: 9, Limit: 5}, wire.CodeFrameTooLarge},
		{&os.PathError{Op: "open", Err: syscall.EACCES}, wire.CodePermissionDenied},
		{&os.PathError{Op: "write", Err: syscall.ENOSPC}, wire.CodeStorageUnavailable},
		{errors.New("anything else"), wire.CodeInternal},
	} {
		got := wire.FromError(c.err)
		if got.Code != c.want || got.Message == "" || got.Retryable != wire.Errorf(c.want, "").Retryable {
			t.Errorf("%v became %+v, want %s", c.err, got, c.want)
		}
	}
	if wire.FromError(nil) != nil {
		t.Error("nil became an error")
	}
	if d := wire.FromError(&wire.TooLongError{Length: 9, Limit: 5}).Details; d["length"] != uint32(9) || d["limit"] != uint32(5) {
		t.Errorf("details of a frame that is too long: %v", d)
	}
}

func TestErrorMatchesByCode(t *testing.T) {
	err := fmt.Errorf("calling: %w", wire.Errorf(wire.CodeQueueFull, "queue of %d", 7).With("retry_after_ms", 5))
	if !errors.Is(err, &wire.Error{Code: wire.CodeQueueFull}) || errors.Is(err, &wire.Error{Code: wire.CodeDraining}) {
		t.Error("errors.Is does not go by code")
	}
	var e *wire.Error
	if !errors.As(err, &e) || e.Error() != "queue_full: queue of 7" || e.Details["retry_after_ms"] != 5 {
		t.Errorf("%+v", e)
	}
	more := e.With("a", 1)
	if len(e.Details) != 1 || !slices.Equal(slices.Sorted(maps.Keys(more.Details)), []string{"a", "retry_after_ms"}) {
		t.Errorf("With changed what it copies: %v, %v", e.Details, more.Details)
	}
	raw, encodeErr := wire.Marshal(more)
	var back wire.Error
	if decodeErr := wire.Unmarshal(raw, &back); encodeErr != nil || decodeErr != nil {
		t.Fatal(encodeErr, decodeErr)
	}
	if back.Code != more.Code || !back.Retryable || back.Details["a"] != int64(1) {
		t.Errorf("came back as %+v", back)
	}
}
