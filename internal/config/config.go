// Package config reads the sidecar's configuration: a TOML file, a profile over it and the environment over both.
// It owns the settings' names, defaults, limits and documentation, says where each value came from, and how two
// configurations differ. It applies nothing, starts nothing, and resolves secrets only when asked to.
package config

import (
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config is one loaded configuration, complete with defaults. It is not changed after [Load].
type Config struct {
	Path    string // the file it was read from; "" where there was none
	Dir     string // absolute folder that the application and relative paths are found from
	Profile string // the profile in force; "" for none
	Blank   bool   // the file has no bytes

	Listen    Listen
	Pool      Pool // [pools.default]: this version has one pool
	Runs      Runs
	Sessions  Sessions
	Budgets   Budgets
	Models    map[string]*Model
	Embedders map[string]*Embedder
	DSPy      DSPy
	Optimize  Optimize
	Programs  map[string]*Program
	Log       Log
	HTTP      HTTP

	origins map[string]origin // by key; absent: the default
}

// Listen is the [listen] table: the socket and the limits of each connection.
type Listen struct {
	Socket           string // absolute path of at most 107 bytes
	Mode             fs.FileMode
	AllowUIDs        []uint32 // as written; see [Listen.Allowed]
	AdminUIDs        []uint32 // as written; see [Listen.Admins]
	MaxConnections   int
	MaxInFlight      int // calls of one connection
	MaxInFlightBytes int // of their requests
	MaxInFlightUID   int // calls of one uid on all its connections; 0: no limit
	MaxFrame         int // bytes
	HandshakeTimeout time.Duration
	FrameTimeout     time.Duration
	WriteTimeout     time.Duration
	WriteBuffer      int // bytes of one connection
	DefaultTimeout   time.Duration
}

// Admins returns the uids of administrators, where self is the sidecar's own uid.
func (l Listen) Admins(self uint32) []uint32 {
	if len(l.AdminUIDs) > 0 {
		return slices.Clone(l.AdminUIDs)
	}
	return slices.Compact([]uint32{0, self})
}

// Allowed returns the uids that may connect, administrators included, where self is the sidecar's own uid.
func (l Listen) Allowed(self uint32) []uint32 {
	uids := slices.Concat(l.Admins(self), l.AllowUIDs)
	if len(l.AllowUIDs) == 0 {
		uids = append(uids, 0, self)
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// Pool is a [pools.NAME] table: one application's worker processes.
type Pool struct {
	App                 string // "module:attribute"; "" for the DSPy application alone
	Python              string // absolute path, or a name to find in PATH
	Size                Size
	MaxOverflow         Size
	OverflowIdle        time.Duration
	Concurrency         int
	CheckoutTimeout     time.Duration
	QueueLimit          int
	Start               string // "zygote" or "spawn"
	Lazy                bool
	HealthCheckInterval time.Duration
	HealthCheckTimeout  time.Duration
	StartTimeout        time.Duration
	ShutdownTimeout     time.Duration
	CancelGrace         time.Duration
	StopReport          time.Duration
	StreamStall         time.Duration
	RecycleCalls        int           // 0: never
	RecycleAge          time.Duration // likewise
	RecycleMemory       int           // likewise
	MemoryLimit         int           // 0: none
	PassEnv             []string      // names, or beginnings that end in "*"
	Env                 map[string]Secret
	Tracebacks          bool
}

// Environ returns a worker's environment, sorted: what PassEnv lets through of environ (the sidecar's own, in the
// form of os.Environ), and Env over it with its secrets resolved. An error names the variable, never a value.
func (p Pool) Environ(environ []string) ([]string, error) {
	values := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if slices.ContainsFunc(p.PassEnv, func(pattern string) bool { return passes(pattern, name) }) {
			values[name] = value
		}
	}
	for name, secret := range p.Env {
		value, err := secret.Resolve(environ)
		if err != nil {
			return nil, &Error{Key: dotted("pools", "default", "env", name), Message: "cannot be resolved: " + err.Error(), cause: err}
		}
		values[name] = value
	}
	out := make([]string, 0, len(values))
	for name, value := range values {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out, nil
}

func passes(pattern, name string) bool {
	if beginning, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, beginning)
	}
	return name == pattern
}

// Runs is the [runs] table: calls whose method wants a process of its own.
type Runs struct {
	Max         int // processes at a time
	Queue       time.Duration
	QueueLimit  int
	Timeout     time.Duration
	CancelGrace time.Duration
	MemoryLimit int // of each; 0: none
	Nice        int
	Keep        time.Duration
}

// Sessions is the [sessions] table.
type Sessions struct {
	Store       string // "memory" or "file"
	Path        string // the file store's folder
	KeyFile     string // "": secrets are not stored
	TTL         time.Duration
	MaxAge      time.Duration // 0: no limit
	Max         int
	MaxState    int    // bytes of one session
	MaxTotal    int    // bytes of all sessions; 0: no limit
	MaxInFlight int    // calls of one session; 0: no limit
	Pinning     string // "strict", "fail_fast" or "soft"
	SoftWait    time.Duration
	AutoCreate  bool
	AnswerTTL   time.Duration
	History     int            // bytes of a session's last LM exchanges; 0: none are kept
	WeightLabel string         // the label whose value chooses a weight; "": all sessions are equal
	Weights     map[string]int // by the label's value
}

// Budget is a [budgets.NAME] table; 0 and nil: no limit.
type Budget struct {
	Calls  int
	Tokens int
	Cost   *float64
}

// Budgets is the [budgets] tables.
type Budgets struct {
	Session    Budget // of one session, as long as it lives
	SessionDay Budget // of one session in a day
	OwnerDay   Budget // of one uid in a day
}

// Model is a [models.NAME] table: one language model that programs may use by that name.
type Model struct {
	Model          string // DSPy's model string, such as "openai/gpt-4o-mini"
	APIKey         Secret
	APIBase        string
	Adapter        string // "chat", "json", "xml" or "two_step"
	ResponseSchema bool
	Extraction     string        // name of the model that reads the answers, for two_step
	Temperature    *float64      // nil: the provider's own
	TopP           *float64      // likewise
	MaxTokens      int           // 0: the provider's own
	Stop           []string      // nil: none
	Seed           *int          // nil: none
	Reasoning      string        // how much the model is to think; "": the provider's own
	Timeout        time.Duration // 0: what is left of the call's deadline
	NumRetries     int
	Fallbacks      []string // names of models, in order
	// These hold across all workers; 0: no limit.
	Concurrency       int
	RequestsPerMinute int
	TokensPerMinute   int
	InputPrice        *float64 // US dollars for a million tokens; nil: as DSPy knows it
	OutputPrice       *float64
	Cache             bool
	CacheScope        string   // "session" or "model"
	Default           bool     // as written; see [Config.DefaultModel]
	Command           []string // program and arguments of the model server that the sidecar keeps; nil for none
	StartTimeout      time.Duration
}

// Embedder is an [embedders.NAME] table: what turns texts into vectors for retrieval, by an OpenAI-compatible endpoint.
type Embedder struct {
	Model      string
	APIKey     Secret
	APIBase    string
	BatchSize  int // texts of a request
	Dimensions int // 0: the model's own
	Timeout    time.Duration
	NumRetries int
	// These hold across all workers; 0: no limit.
	Concurrency       int
	RequestsPerMinute int
	TokensPerMinute   int
	Default           bool
}

// DefaultModel returns the name of the model that programs use unless told otherwise: the one marked as default,
// or the only one. It is "" where there is none.
func (c *Config) DefaultModel() string {
	for name, m := range c.Models {
		if m.Default || len(c.Models) == 1 {
			return name
		}
	}
	return ""
}

// Log is the [log] table.
type Log struct {
	Level  slog.Level
	Format string // "json" or "text"
	// SlowCall is how long a call may take, waiting included, before it is logged; 0: none is.
	SlowCall time.Duration
	// AccessSample is the share of calls that are logged.
	AccessSample float64
}

// HTTP is the [http] table.
type HTTP struct {
	Listen string   // "" for none; "HOST:PORT", or "unix:" and an absolute path
	Remote bool     // it may be an address that other machines reach
	Hosts  []string // further names that requests may give
}

// Unix returns the path of the socket to listen on, where it is one.
func (h HTTP) Unix() (path string, ok bool) { return strings.CutPrefix(h.Listen, unixPrefix) }

const unixPrefix = "unix:"

// DefaultSocket returns where the socket is unless something else is said: $XDG_RUNTIME_DIR/dspex/dspex.sock, else
// /run/dspex/dspex.sock. environ has the form of os.Environ.
func DefaultSocket(environ []string) string {
	// The XDG base directory specification says that a relative path is to be ignored.
	if dir, ok := lookup(environ, "XDG_RUNTIME_DIR"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "dspex", "dspex.sock")
	}
	return "/run/dspex/dspex.sock"
}

// lookup finds a variable in an environment of the form of os.Environ.
func lookup(environ []string, name string) (string, bool) {
	for _, entry := range environ {
		if key, value, ok := strings.Cut(entry, "="); ok && key == name {
			return value, true
		}
	}
	return "", false
}
