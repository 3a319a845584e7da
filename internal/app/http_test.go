package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// answer is what an HTTP request got.
type answer struct {
	code int
	body string
}

func ask(t *testing.T, client *http.Client, method, url, host string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	got, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{got.StatusCode, string(body)}
}

func TestHTTP(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	p := newPlace(t, self(t), fmt.Sprintf("[http]\nlisten = %q\nhosts = ['sidecar.example']", address))
	s := p.serve(t)
	c := p.connect(t)
	call(t, c, "echo", nil)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	url := "http://" + address
	got := ask(t, client, "GET", url+"/metrics", "")
	for _, line := range []string{
		`dspex_calls_total{method="echo",code="ok"} 1`, `dspex_commands_total{pool="default"} 1`, `dspex_pool_size{pool="default"} 2`,
		`dspex_worker_starts_total{pool="default"} 2`, `dspex_build_info{version="test"} 1`,
	} {
		if !strings.Contains(got.body, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, got.body)
		}
	}
	await(t, "the memory of a worker", func() bool {
		return strings.Contains(ask(t, client, "GET", url+"/metrics", "").body, `dspex_worker_memory_bytes{pool="default",place="1"}`)
	})
	for _, row := range []struct {
		method, path, host string
		code               int
	}{
		{"GET", "/healthz", "", 200},
		{"GET", "/readyz", "", 200},
		{"GET", "/readyz", "localhost:9464", 200},
		{"GET", "/readyz", "[::1]:9464", 200},
		{"GET", "/readyz", "Sidecar.Example", 200},
		{"GET", "/metrics", "evil.example", 403},
		{"POST", "/metrics", "", 405},
		{"HEAD", "/metrics", "", 405},
		{"GET", "/", "", 404},
		{"GET", "/metrics/../x", "", 404},
	} {
		if got := ask(t, client, row.method, url+row.path, row.host); got.code != row.code {
			t.Errorf("%s %s as %q: %+v", row.method, row.path, row.host, got)
		}
	}
	client.CloseIdleConnections()
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestHTTPOnAUnixSocket(t *testing.T) {
	p := newPlace(t, filepath.Join(t.TempDir(), "no-python"), "start_timeout = '1s'\n[http]\nlisten = 'unix:h'")
	s := p.serve(t)
	var dialer net.Dialer
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", filepath.Join(p.dir, "h"))
	}}}
	defer client.CloseIdleConnections()
	p.connect(t)
	if got := ask(t, client, "GET", "http://any.name/healthz", ""); got.code != 200 {
		t.Errorf("%+v", got)
	}
	await(t, "not ready, and why", func() bool {
		got := ask(t, client, "GET", "http://any.name/readyz", "")
		return got.code == 503 && strings.Contains(got.body, "unhealthy: ")
	})
	if err := os.Remove(filepath.Join(p.dir, "h")); err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	await(t, "the socket is made again", func() bool {
		response, err := client.Get("http://any.name/healthz")
		if err == nil {
			_ = response.Body.Close()
		}
		return err == nil && response.StatusCode == http.StatusOK
	})
	client.CloseIdleConnections()
	s.signal(s.Process.Pid)
	if code := s.ended(p); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
