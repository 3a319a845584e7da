package config

import (
	"maps"
	"net"
	"slices"
)

// longestSocket is what sockaddr_un holds beside its ending zero.
const longestSocket = 107

// check notes what is wrong between settings that are right each for itself.
func (l *loader) check(c *Config) {
	if n := len(c.Listen.Socket); n > longestSocket {
		l.failKey(c, "listen.socket", "is a path of %d bytes, and a Unix socket's has at most %d: %s", n, longestSocket, c.Listen.Socket)
	}
	l.checkFits(c, "write_buffer", c.Listen.WriteBuffer)
	l.checkFits(c, "max_in_flight_bytes", c.Listen.MaxInFlightBytes)
	if p := &c.Pool; p.MemoryLimit > 0 && p.RecycleMemory >= p.MemoryLimit {
		l.failKey(c, "pools.default.recycle_memory", "is %s, and must be below memory_limit, %s, at which a worker is killed",
			showBytes(p.RecycleMemory), showBytes(p.MemoryLimit))
	}
	l.checkHTTP(c)
	l.checkStore(c)
	l.checkModels(c)
	l.checkEmbedders(c)
	l.checkPrograms(c)
	if c.Optimize.Executor == "ray" && c.Optimize.Address == "" {
		l.failKey(c, "optimize.executor", `is "ray", and needs optimize.address, that of the cluster`)
	}
}

// checkHTTP notes an address that more can reach than was meant.
func (l *loader) checkHTTP(c *Config) {
	host, _, err := net.SplitHostPort(c.HTTP.Listen)
	_, unix := c.HTTP.Unix()
	if err == nil && !unix && !c.HTTP.Remote && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		l.failKey(c, "http.listen", "is an address that other machines reach: choose one of this machine alone, such as 127.0.0.1, or say http.remote = true")
	}
}

// checkStore notes what the store lacks, or does not use.
func (l *loader) checkStore(c *Config) {
	s := &c.Sessions
	switch {
	case s.Store == "file" && s.Path == "":
		l.failKey(c, "sessions.store", `is "file", and needs sessions.path, a folder for the sessions`)
	case s.Store == "memory" && s.Path != "":
		l.failKey(c, "sessions.path", `is the folder of the store "file", and sessions.store is "memory"`)
	case s.Store == "memory" && s.KeyFile != "":
		l.failKey(c, "sessions.key_file", `seals what the store "file" keeps, and sessions.store is "memory"`)
	}
	if len(s.Weights) > 0 && s.WeightLabel == "" {
		l.failKey(c, "sessions.weights", "needs sessions.weight_label, the label that it is about")
	}
	if s.MaxTotal > 0 && s.MaxTotal < s.MaxState {
		l.failKey(c, "sessions.max_total", "is %s, and must be at least max_state, %s", showBytes(s.MaxTotal), showBytes(s.MaxState))
	}
}

// checkFits notes a limit of [listen] that a single frame may exceed, at the one of the two settings that was written.
func (l *loader) checkFits(c *Config, limit string, bytes int) {
	if c.Listen.MaxFrame <= bytes {
		return
	}
	key := "listen.max_frame"
	if c.Origin(key) == "default" {
		key = "listen." + limit
	}
	l.failKey(c, key, "does not fit: max_frame is %s and %s, which must hold a frame, only %s", showBytes(c.Listen.MaxFrame), limit, showBytes(bytes))
}

func (l *loader) checkModels(c *Config) {
	first := ""
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		m, key := c.Models[name], func(last string) string { return dotted(modelsTable, name, last) }
		if m.Model == "" {
			l.fail(c.origins[dotted(modelsTable, name)], dotted(modelsTable, name), `has no model, such as model = "openai/gpt-4o-mini"`)
		}
		if m.ResponseSchema && m.Adapter != "json" {
			l.failKey(c, key("response_schema"), `has an effect only with adapter = "json"`)
		}
		if m.Adapter == "two_step" && m.Extraction == "" {
			l.failKey(c, key("adapter"), `is "two_step", and needs extraction_model`)
		}
		if m.CacheScope == "model" && !m.Cache {
			l.failKey(c, key("cache_scope"), "has an effect only with cache = true")
		}
		if (m.InputPrice == nil) != (m.OutputPrice == nil) {
			which := map[bool]string{true: "output_price", false: "input_price"}[m.InputPrice == nil]
			l.failKey(c, key(which), "needs the other price, too: input_price and output_price")
		}
		l.checkOthers(c, name, m)
		if m.Command != nil && !m.APIKey.IsZero() {
			l.failKey(c, key("api_key"), "is made by the sidecar where there is a command")
		}
		if m.Command != nil && m.APIBase != "" {
			l.failKey(c, key("api_base"), "is made by the sidecar where there is a command")
		}
		if m.Command == nil && c.Origin(key("start_timeout")) != "default" {
			l.failKey(c, key("start_timeout"), "has an effect only with a command")
		}
		if m.Default && first != "" {
			l.failKey(c, key("default"), "is the second: %s is the default already", dotted(modelsTable, first))
		}
		if m.Default && first == "" {
			first = name
		}
	}
}

// checkOthers notes models that are named by this one and cannot be used.
func (l *loader) checkOthers(c *Config, name string, m *Model) {
	for i, other := range m.Fallbacks {
		switch {
		case c.Models[other] == nil:
			l.failKey(c, dotted(modelsTable, name, "fallbacks"), "names %q, which is no configured model", other)
		case other == name || slices.Contains(m.Fallbacks[:i], other):
			l.failKey(c, dotted(modelsTable, name, "fallbacks"), "names %q twice, or its own model", other)
		}
	}
	if m.Extraction != "" && c.Models[m.Extraction] == nil {
		l.failKey(c, dotted(modelsTable, name, "extraction_model"), "names %q, which is no configured model", m.Extraction)
	}
}

func (l *loader) checkEmbedders(c *Config) {
	first := ""
	for _, name := range slices.Sorted(maps.Keys(c.Embedders)) {
		e := c.Embedders[name]
		if e.Model == "" {
			l.fail(c.origins[dotted(embeddersTable, name)], dotted(embeddersTable, name), `has no model, such as model = "openai/text-embedding-3-small"`)
		}
		if e.Default && first != "" {
			l.failKey(c, dotted(embeddersTable, name, "default"), "is the second: %s is the default already", dotted(embeddersTable, first))
		}
		if e.Default && first == "" {
			first = name
		}
	}
}

// failKey notes an error where the key's value was written.
func (l *loader) failKey(c *Config, key, format string, args ...any) {
	l.fail(c.origins[key], key, format, args...)
}
