package admin

import (
	"bytes"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Handler serves /metrics, /healthz and /readyz to GET alone. hosts are the names, beside "localhost" and addresses, that it may be asked by: a web page
// that has a name of its own lead to this address gets nothing. anyHost is for what no web page reaches.
func (a *Admin) Handler(hosts []string, anyHost bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var text bytes.Buffer
		if err := a.WriteMetrics(&text); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text.Bytes()) // who asked may be gone
	})
	probe := func(ask func() (bool, string)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			ok, said := ask()
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			if !ok {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = w.Write([]byte(said + "\n")) // as above
		}
	}
	mux.HandleFunc("GET /healthz", probe(a.Alive))
	mux.HandleFunc("GET /readyz", probe(a.Ready))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		switch {
		case !anyHost && !permitted(r.Host, hosts):
			http.Error(w, "this name is not one of the sidecar's: see http.hosts", http.StatusForbidden)
		case r.Method != http.MethodGet: // HEAD too, which a mux takes for GET
			h.Set("Allow", http.MethodGet)
			http.Error(w, "GET only", http.StatusMethodNotAllowed)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// permitted says whether a request may name this host.
func permitted(host string, hosts []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(strings.TrimSuffix(name, "."), "[]"))
	return name == "localhost" || net.ParseIP(name) != nil || slices.Contains(hosts, name)
}

// Ready says whether calls are taken, and what there is to say about it.
func (a *Admin) Ready() (ready bool, said string) {
	s := a.cfg.Pool.Snapshot()
	status, reasons := a.judge(&s, false)
	if a.cfg.Pool.Draining() {
		return false, "draining"
	}
	first := ""
	if len(reasons) > 0 {
		first, _, _ = strings.Cut(": "+reasons[0], "\n")
	}
	return status != unhealthy && !s.Paused, status + first
}
