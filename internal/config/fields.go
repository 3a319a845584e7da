package config

import (
	"io/fs"
	"log/slog"
	"regexp"
	"slices"
	"time"
)

var (
	appPattern      = regexp.MustCompile(`^$|^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)
	namePattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	passPattern     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*\*?$`)
	labelPattern    = regexp.MustCompile(`^[!-~]{1,64}$`)
	hostPattern     = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	modelPattern    = regexp.MustCompile(`^[!-~]{1,200}$`)
)

// fields returns all settings, in the order of the example.
func fields() []field {
	return slices.Concat(listenFields(), poolFields(), runFields(), sessionFields(), budgetFields(), logFields(), httpFields(), modelFields(), embedderFields(), dspyFields(), optimizeFields(), programFields())
}

const (
	short      = time.Millisecond // the least of most limits of time
	manyCalls  = 1 << 20
	mostMemory = 1 << 50 // bytes
)

func listenFields() []field {
	l := func(c *Config) *Listen { return &c.Listen }
	return []field{
		setting("listen.socket", "", `"/run/dspex/dspex.sock"`, Restart,
			"Path of the Unix socket. Default: $XDG_RUNTIME_DIR/dspex/dspex.sock, else /run/dspex/dspex.sock.",
			in(filePath("a path of at most 107 bytes"), func(c *Config) *string { return &l(c).Socket })),
		setting("listen.mode", `"0660"`, "", Restart, "Permissions of the socket's file.",
			in(fileMode(), func(c *Config) *fs.FileMode { return &l(c).Mode })),
		setting("listen.allow_uids", "[]", "", Live,
			"Uids that may connect; [] is the sidecar's own and root. Administrators always may.",
			in(userIDs(), func(c *Config) *[]uint32 { return &l(c).AllowUIDs })),
		setting("listen.admin_uids", "[]", "", Live, "Uids that may administer; [] is the sidecar's own and root.",
			in(userIDs(), func(c *Config) *[]uint32 { return &l(c).AdminUIDs })),
		setting("listen.max_connections", "10000", "", Live, "Connections at a time; more are refused, administrators' aside.",
			in(integer(1, manyCalls), func(c *Config) *int { return &l(c).MaxConnections })),
		setting("listen.max_in_flight", "1024", "", Live, "Calls in flight on one connection; more are answered queue_full.",
			in(integer(1, manyCalls), func(c *Config) *int { return &l(c).MaxInFlight })),
		setting("listen.max_in_flight_bytes", `"256MiB"`, "", Live,
			"Bytes that the requests of those calls hold; more are answered queue_full. At least max_frame.",
			in(byteSize(64<<10, 64<<30), func(c *Config) *int { return &l(c).MaxInFlightBytes })),
		setting("listen.max_in_flight_uid", "0", "", Live,
			"Calls in flight of one uid on all its connections; more are answered queue_full. 0: no limit.",
			in(integer(0, manyCalls), func(c *Config) *int { return &l(c).MaxInFlightUID })),
		setting("listen.max_frame", `"16MiB"`, "", Generation,
			"Largest frame that is received; a larger one is answered frame_too_large.",
			in(byteSize(64<<10, 1<<30), func(c *Config) *int { return &l(c).MaxFrame })),
		setting("listen.handshake_timeout", `"5s"`, "", Live, "A new connection must have said hello by then.",
			in(duration(short), func(c *Config) *time.Duration { return &l(c).HandshakeTimeout })),
		setting("listen.frame_timeout", `"30s"`, "", Live,
			"A frame that has begun must be there whole by then, or the connection ends.",
			in(duration(short), func(c *Config) *time.Duration { return &l(c).FrameTimeout })),
		setting("listen.write_timeout", `"30s"`, "", Live,
			"A client that takes none of what waits for it for so long loses its connection.",
			in(duration(short), func(c *Config) *time.Duration { return &l(c).WriteTimeout })),
		setting("listen.write_buffer", `"64MiB"`, "", Live,
			"Bytes that may wait for one client; with more its connection ends. At least max_frame.",
			in(byteSize(64<<10, 16<<30), func(c *Config) *int { return &l(c).WriteBuffer })),
		setting("listen.default_timeout", `"10m"`, "", Live, "Deadline of a call that brings none.",
			in(duration(short), func(c *Config) *time.Duration { return &l(c).DefaultTimeout })),
	}
}

func poolFields() []field {
	return slices.Concat(poolProcessFields(), poolLimitFields(), poolLifeFields(), poolEnvironmentFields())
}

// poolProcessFields are what a worker process is made from.
func poolProcessFields() []field {
	p := func(c *Config) *Pool { return &c.Pool }
	return []field{
		setting("pools.default.app", `""`, "", Generation,
			`The application, "module:attribute", found from this file's folder; "" serves the DSPy application alone.`,
			in(text(`"module:attribute", such as "app:app", or ""`, appPattern), func(c *Config) *string { return &p(c).App })),
		setting("pools.default.python", `"python3"`, "", Generation,
			"Python of the environment that dspex_worker is installed in: a name to find in PATH, or a path.",
			in(program("the name of a program, or a path"), func(c *Config) *string { return &p(c).Python })),
		setting("pools.default.start", `"zygote"`, "", Generation,
			`How workers are started: "zygote", forked from a process that has loaded the application; "spawn", each a new one.`,
			in(oneOf("zygote", "spawn"), func(c *Config) *string { return &p(c).Start })),
		setting("pools.default.lazy", "false", "", Live, "Start the workers with the first call and not at once.",
			in(boolean(), func(c *Config) *bool { return &p(c).Lazy })),
		setting("pools.default.tracebacks", "false", "", Generation,
			"Send Python tracebacks to clients with an application's errors.",
			in(boolean(), func(c *Config) *bool { return &p(c).Tracebacks })),
	}
}

func poolEnvironmentFields() []field {
	return []field{
		setting("pools.default.pass_env", defaultPassEnv, "", Generation,
			`Variables of the sidecar's environment that workers get, by name; a "*" at the end stands for any end.`,
			in(variableNames(passPattern), func(c *Config) *[]string { return &c.Pool.PassEnv })),
		{
			envTable + ".*", "", `"value"`, Generation,
			`Further variables for workers: a value, or "env:NAME" or "file:PATH" where it is secret.`,
			envEntry{},
		},
	}
}

// defaultPassEnv is what programs need to find their files, their language and the network.
const defaultPassEnv = `["PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", ` +
	`"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"]`

// poolLimitFields are how many workers there are, and how long things may take.
func poolLimitFields() []field {
	p := func(c *Config) *Pool { return &c.Pool }
	const mostWorkers = 1024
	return []field{
		setting("pools.default.size", "8", "", Live,
			`Workers: a number, or "cpu", "cpu*1.5", "cpu*2" by the container's CPU quota, rounded up.`,
			in(workers(1, mostWorkers), func(c *Config) *Size { return &p(c).Size })),
		setting("pools.default.max_overflow", "4", "", Live, "Further workers while all are busy, written as size is.",
			in(workers(0, mostWorkers), func(c *Config) *Size { return &p(c).MaxOverflow })),
		setting("pools.default.overflow_idle", `"60s"`, "", Live, "An overflow worker that had nothing to do for so long retires.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).OverflowIdle })),
		setting("pools.default.concurrency", "64", "", Generation, "Slots of a worker: calls that it runs at a time.",
			in(integer(1, 10000), func(c *Config) *int { return &p(c).Concurrency })),
		setting("pools.default.checkout_timeout", `"5s"`, "", Live,
			"Longest wait for a slot, then checkout_timeout; 30s suits long calls.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).CheckoutTimeout })),
		setting("pools.default.queue_limit", "4096", "", Live, "Calls that may wait for a slot; more are answered queue_full.",
			in(integer(0, manyCalls), func(c *Config) *int { return &p(c).QueueLimit })),
		setting("pools.default.health_check_interval", `"30s"`, "", Live, "Time between two heartbeats of a worker.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).HealthCheckInterval })),
		setting("pools.default.health_check_timeout", `"10s"`, "", Live,
			"A worker that does not answer its heartbeat in this time is replaced.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).HealthCheckTimeout })),
		setting("pools.default.start_timeout", `"60s"`, "", Live,
			"A worker must be ready by then: Python started, application imported.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).StartTimeout })),
		setting("pools.default.shutdown_timeout", `"30s"`, "", Live, "Longest drain at the end; what still runs then is killed.",
			in(duration(0), func(c *Config) *time.Duration { return &p(c).ShutdownTimeout })),
		setting("pools.default.cancel_grace", `"5s"`, "", Live,
			"After a cancel or deadline, a call that runs on for so long gets its worker killed.",
			in(duration(0), func(c *Config) *time.Duration { return &p(c).CancelGrace })),
		setting("pools.default.stop_report", `"50ms"`, "", Live,
			"After a cancel or deadline, the answer waits so long for the call's end; from cancel_grace on it waits for it.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).StopReport })),
		setting("pools.default.stream_stall", `"30s"`, "", Live, "A stream whose client gives no credit for so long is cancelled.",
			in(duration(short), func(c *Config) *time.Duration { return &p(c).StreamStall })),
	}
}

// poolLifeFields are when a worker is replaced by a new one.
func poolLifeFields() []field {
	p := func(c *Config) *Pool { return &c.Pool }
	return []field{
		setting("pools.default.recycle_calls", "0", "", Live,
			"A worker that has taken so many calls, a tenth more or less, is replaced by a new one; 0: never.",
			in(integer(0, manyCalls), func(c *Config) *int { return &p(c).RecycleCalls })),
		setting("pools.default.recycle_age", `"0s"`, "", Live, `A worker that is so old, a tenth more or less, is replaced by a new one; "0s": never.`,
			in(duration(0), func(c *Config) *time.Duration { return &p(c).RecycleAge })),
		setting("pools.default.recycle_memory", "0", "", Live,
			"A worker that takes more memory is replaced when its calls have ended; 0: never.",
			in(byteSize(0, mostMemory), func(c *Config) *int { return &p(c).RecycleMemory })),
		setting("pools.default.memory_limit", "0", "", Live, "A worker that takes more memory is killed; 0: no limit.",
			in(byteSize(0, mostMemory), func(c *Config) *int { return &p(c).MemoryLimit })),
	}
}

// runFields are about calls whose method wants a process of its own.
func runFields() []field {
	r := func(c *Config) *Runs { return &c.Runs }
	return []field{
		setting("runs.max", "2", "", Live, "Processes at a time for methods that have one for each call, beside the pool's workers; further calls wait.",
			in(integer(1, 1024), func(c *Config) *int { return &r(c).Max })),
		setting("runs.queue", `"10m"`, "", Live, "Longest wait for such a process, then checkout_timeout.",
			in(duration(short), func(c *Config) *time.Duration { return &r(c).Queue })),
		setting("runs.queue_limit", "100", "", Live, "Calls that may wait for one; more are answered queue_full.",
			in(integer(0, manyCalls), func(c *Config) *int { return &r(c).QueueLimit })),
		setting("runs.timeout", `"1h"`, "", Live, "Deadline of such a call that brings none.",
			in(duration(short), func(c *Config) *time.Duration { return &r(c).Timeout })),
		setting("runs.cancel_grace", `"500ms"`, "", Live, "After a cancel or deadline, a process that is still there so long after gets killed.",
			in(duration(0), func(c *Config) *time.Duration { return &r(c).CancelGrace })),
		setting("runs.memory_limit", "0", "", Live, "A process of a call that takes more memory is killed; 0: no limit.",
			in(byteSize(0, mostMemory), func(c *Config) *int { return &r(c).MemoryLimit })),
		setting("runs.nice", "10", "", Live, "Nice value of those processes, 0 to 19: the higher, the more the processors are left to others.",
			in(integer(0, 19), func(c *Config) *int { return &r(c).Nice })),
		setting("runs.keep", `"1h"`, "", Live, "How long what became of such a call can be asked for; at most 100 are kept.",
			in(duration(short), func(c *Config) *time.Duration { return &r(c).Keep })),
	}
}

func sessionFields() []field {
	s := func(c *Config) *Sessions { return &c.Sessions }
	return []field{
		setting("sessions.store", `"memory"`, "", Restart, `Where sessions are kept: "memory", gone when the sidecar ends, or "file".`,
			in(oneOf("memory", "file"), func(c *Config) *string { return &s(c).Store })),
		setting("sessions.path", "", `"/var/lib/dspex/sessions"`, Restart, `Folder of the store "file", for one sidecar alone.`,
			in(filePath("a path of a folder"), func(c *Config) *string { return &s(c).Path })),
		setting("sessions.key_file", "", `"/etc/dspex/sessions.key"`, Restart,
			"File with the key, 32 bytes in base64, that seals the secrets in the store; without one they are not stored.",
			in(filePath("a path of a file"), func(c *Config) *string { return &s(c).KeyFile })),
		setting("sessions.ttl", `"1h"`, "", Live, "A session that was not used for so long ends.",
			in(duration(short), func(c *Config) *time.Duration { return &s(c).TTL })),
		setting("sessions.max_age", `"0s"`, "", Live, "A session that is so old ends, used or not; 0: never.",
			in(duration(0), func(c *Config) *time.Duration { return &s(c).MaxAge })),
		setting("sessions.max", "100000", "", Live, "Sessions at a time; more are answered session_limit.",
			in(integer(1, 100<<20), func(c *Config) *int { return &s(c).Max })),
		setting("sessions.max_state", `"64MiB"`, "", Live, "Largest state of one session; a call that would make it larger fails.",
			in(byteSize(1<<10, 4<<30), func(c *Config) *int { return &s(c).MaxState })),
		setting("sessions.max_total", `"1GiB"`, "", Live, "Bytes of all sessions together; a call that would make them more fails. 0: no limit.",
			in(byteSize(0, mostMemory), func(c *Config) *int { return &s(c).MaxTotal })),
		setting("sessions.max_in_flight", "0", "", Live, "Calls in flight in one session; more are answered queue_full. 0: no limit.",
			in(integer(0, manyCalls), func(c *Config) *int { return &s(c).MaxInFlight })),
		setting("sessions.pinning", `"strict"`, "", Live,
			`When the pinned worker is full: "strict" waits, "fail_fast" fails, "soft" moves after soft_wait.`,
			in(oneOf("strict", "fail_fast", "soft"), func(c *Config) *string { return &s(c).Pinning })),
		setting("sessions.soft_wait", `"1s"`, "", Live, `Wait for the pinned worker where pinning is "soft".`,
			in(duration(0), func(c *Config) *time.Duration { return &s(c).SoftWait })),
		setting("sessions.auto_create", "false", "", Live,
			"Make a session that a call names and that is not there; else session_not_found.",
			in(boolean(), func(c *Config) *bool { return &s(c).AutoCreate })),
		setting("sessions.answer_ttl", `"1h"`, "", Live, "How long the answer to a call with an idempotency key is kept.",
			in(duration(short), func(c *Config) *time.Duration { return &s(c).AnswerTTL })),
		setting("sessions.history", "0", "", Live,
			"Bytes of each session's last exchanges with language models that inspect_history shows; 0: none are kept.",
			in(byteSize(0, 64<<20), func(c *Config) *int { return &s(c).History })),
		setting("sessions.weight_label", "", `"tier"`, Live, "The label of a session whose value chooses its weight in the queue.",
			in(text("a label, 1 to 64 letters, digits and other visible signs", labelPattern), func(c *Config) *string { return &s(c).WeightLabel })),
		setting("sessions.weights.*", "", "4", Live, "The weight, from 1 to 100, of sessions whose label has this value; others have 1.", weightEntry{}),
	}
}

func budgetFields() []field {
	var out []field
	for _, b := range []struct {
		name, whose string
		at          func(c *Config) *Budget
	}{
		{"session", "one session, as long as it lives", func(c *Config) *Budget { return &c.Budgets.Session }},
		{"session_day", "one session in a day, of UTC", func(c *Config) *Budget { return &c.Budgets.SessionDay }},
		{"owner_day", "one uid in a day, whatever tokens it uses", func(c *Config) *Budget { return &c.Budgets.OwnerDay }},
	} {
		out = append(out,
			setting("budgets."+b.name+".calls", "0", "", Live, "Calls of "+b.whose+"; more are answered budget_exceeded. 0: no limit.",
				in(integer(0, mostMemory), func(c *Config) *int { return &b.at(c).Calls })),
			setting("budgets."+b.name+".tokens", "0", "", Live, "Tokens that their language models may take; 0: no limit.",
				in(integer(0, mostMemory), func(c *Config) *int { return &b.at(c).Tokens })),
			setting("budgets."+b.name+".cost", "", "2.50", Live, "What they may cost, in US dollars, as far as DSPy knows the prices.",
				in(optionalFloat(1e9), func(c *Config) **float64 { return &b.at(c).Cost })),
		)
	}
	return out
}

func modelFields() []field {
	return []field{
		setting("models.*.model", "", `"openai/gpt-4o-mini"`, Live, "DSPy's name of the model, with its provider. Required.",
			inModel(text(`a model with its provider, such as "openai/gpt-4o-mini"`, modelPattern), func(m *Model) *string { return &m.Model })),
		setting("models.*.api_key", "", `"env:OPENAI_API_KEY"`, Live,
			`The provider's key, always by reference: "env:NAME" or "file:PATH".`,
			inModel(reference(), func(m *Model) *Secret { return &m.APIKey })),
		setting("models.*.api_base", "", `"https://llm.example.com/v1"`, Live,
			"Address of the provider where it is not the usual one.",
			inModel(webAddress(), func(m *Model) *string { return &m.APIBase })),
		setting("models.*.adapter", `"chat"`, "", Live, `How DSPy writes prompts and reads answers: "chat", "json", "xml" or "two_step".`,
			inModel(oneOf("chat", "json", "xml", "two_step"), func(m *Model) *string { return &m.Adapter })),
		setting("models.*.extraction_model", "", `"local"`, Live,
			`Name of the configured model that reads the answers; with adapter = "two_step", which needs it.`,
			inModel(text(`the name of a model`, namePattern), func(m *Model) *string { return &m.Extraction })),
		setting("models.*.response_schema", "false", "", Live,
			`Constrain answers by the outputs' JSON schema; only with adapter = "json", where the model can.`,
			inModel(boolean(), func(m *Model) *bool { return &m.ResponseSchema })),
		setting("models.*.temperature", "", "0.7", Live, "Sampling temperature; not given: the provider's own.",
			inModel(optionalFloat(2), func(m *Model) **float64 { return &m.Temperature })),
		setting("models.*.max_tokens", "", "1000", Live, "Longest answer in tokens; not given: the provider's own.",
			inModel(optionalCount(manyCalls), func(m *Model) *int { return &m.MaxTokens })),
		setting("models.*.top_p", "", "0.9", Live, "Share of the likeliest tokens to sample from; not given: the provider's own.",
			inModel(optionalFloat(1), func(m *Model) **float64 { return &m.TopP })),
		setting("models.*.stop", "", `["###"]`, Live, "Texts at which an answer ends; at most 4.",
			inModel(stops(), func(m *Model) *[]string { return &m.Stop })),
		setting("models.*.seed", "", "42", Live, "Seed of the sampling, where the provider takes one.",
			inModel(optionalInteger(0, 1<<31-1), func(m *Model) **int { return &m.Seed })),
		setting("models.*.reasoning_effort", "", `"low"`, Live, `How much a reasoning model is to think: "none", "minimal", "low", "medium" or "high".`,
			inModel(oneOf("none", "minimal", "low", "medium", "high"), func(m *Model) *string { return &m.Reasoning })),
		setting("models.*.timeout", "", `"60s"`, Live,
			"Longest wait for one answer; not given: what is left of the call's deadline.",
			inModel(duration(short), func(m *Model) *time.Duration { return &m.Timeout })),
		setting("models.*.num_retries", "0", "", Live,
			"Further attempts after an error that may pass, within the call's deadline.",
			inModel(integer(0, 100), func(m *Model) *int { return &m.NumRetries })),
		setting("models.*.fallbacks", "[]", "", Live,
			"Names of configured models that are asked, in order, where this one is overloaded, down, silent or out of credit.",
			inModel(names(`names of models, such as ["other"]`, namePattern), func(m *Model) *[]string { return &m.Fallbacks })),
		setting("models.*.concurrency", "0", "", Live, "Requests in flight, of all workers together; more wait in fair turn. 0: no limit.",
			inModel(integer(0, manyCalls), func(m *Model) *int { return &m.Concurrency })),
		setting("models.*.requests_per_minute", "0", "", Live, "Requests that may begin in any minute, of all workers together; 0: no limit.",
			inModel(integer(0, manyCalls), func(m *Model) *int { return &m.RequestsPerMinute })),
		setting("models.*.tokens_per_minute", "0", "", Live,
			"Tokens that requests may take in a minute, of all workers together; 0: no limit.",
			inModel(integer(0, 1<<40), func(m *Model) *int { return &m.TokensPerMinute })),
		setting("models.*.cache", "false", "", Live, "Keep answers, and give the same one to the same request; in each worker's memory.",
			inModel(boolean(), func(m *Model) *bool { return &m.Cache })),
		setting("models.*.cache_scope", `"session"`, "", Live, `Who may get a kept answer: "session" is the one that asked first, "model" all that use this model.`,
			inModel(oneOf("session", "model"), func(m *Model) *string { return &m.CacheScope })),
		setting("models.*.input_price", "", "0.15", Live, "US dollars for a million tokens of prompts; not given: as DSPy knows it.",
			inModel(optionalFloat(1e6), func(m *Model) **float64 { return &m.InputPrice })),
		setting("models.*.output_price", "", "0.60", Live, "US dollars for a million tokens of answers; not given: as DSPy knows it.",
			inModel(optionalFloat(1e6), func(m *Model) **float64 { return &m.OutputPrice })),
		setting("models.*.default", "false", "", Live,
			"Programs use this model unless told otherwise; with one model it is that one.",
			inModel(boolean(), func(m *Model) *bool { return &m.Default })),
		setting("models.*.command", "", `["python3", "model_server.py"]`, Generation,
			"A model server that the sidecar keeps as one process for all workers; the sidecar makes its address and key.",
			inModel(commandLine(), func(m *Model) *[]string { return &m.Command })),
		setting("models.*.start_timeout", `"60s"`, "", Live, "The model server must answer by then.",
			inModel(duration(short), func(m *Model) *time.Duration { return &m.StartTimeout })),
	}
}

func embedderFields() []field {
	return []field{
		setting("embedders.*.model", "", `"openai/text-embedding-3-small"`, Live,
			"Name of the model at its endpoint, with its provider before the first slash. Required.",
			inEmbedder(text(`a model with its provider, such as "openai/text-embedding-3-small"`, modelPattern), func(e *Embedder) *string { return &e.Model })),
		setting("embedders.*.api_key", "", `"env:OPENAI_API_KEY"`, Live,
			`The provider's key, always by reference: "env:NAME" or "file:PATH".`,
			inEmbedder(reference(), func(e *Embedder) *Secret { return &e.APIKey })),
		setting("embedders.*.api_base", `"https://api.openai.com/v1"`, "", Live,
			"Address below which the endpoint /embeddings of OpenAI's API is.",
			inEmbedder(webAddress(), func(e *Embedder) *string { return &e.APIBase })),
		setting("embedders.*.batch_size", "100", "", Live, "Texts of one request; more are sent in several.",
			inEmbedder(integer(1, 10_000), func(e *Embedder) *int { return &e.BatchSize })),
		setting("embedders.*.dimensions", "", "512", Live, "Length of the vectors, where the model has several; not given: its own.",
			inEmbedder(optionalCount(100_000), func(e *Embedder) *int { return &e.Dimensions })),
		setting("embedders.*.timeout", `"30s"`, "", Live, "Give up on an answer after this time, if the call's deadline does not come first.",
			inEmbedder(duration(short), func(e *Embedder) *time.Duration { return &e.Timeout })),
		setting("embedders.*.num_retries", "2", "", Live, "Further attempts after an error that may pass, within the call's deadline.",
			inEmbedder(integer(0, 100), func(e *Embedder) *int { return &e.NumRetries })),
		setting("embedders.*.concurrency", "0", "", Live, "Requests in flight, of all workers together; more wait in fair turn. 0: no limit.",
			inEmbedder(integer(0, manyCalls), func(e *Embedder) *int { return &e.Concurrency })),
		setting("embedders.*.requests_per_minute", "0", "", Live, "Requests that may begin in any minute, of all workers together; 0: no limit.",
			inEmbedder(integer(0, manyCalls), func(e *Embedder) *int { return &e.RequestsPerMinute })),
		setting("embedders.*.tokens_per_minute", "0", "", Live,
			"Tokens that requests may take in a minute, of all workers together; 0: no limit.",
			inEmbedder(integer(0, 1<<40), func(e *Embedder) *int { return &e.TokensPerMinute })),
		setting("embedders.*.default", "false", "", Live,
			"Used where no name is given; with one embedder it is that one.",
			inEmbedder(boolean(), func(e *Embedder) *bool { return &e.Default })),
	}
}

func logFields() []field {
	return []field{
		setting("log.level", `"info"`, "", Live, `Least level that is logged: "debug", "info", "warn" or "error".`,
			in(logLevel(), func(c *Config) *slog.Level { return &c.Log.Level })),
		setting("log.format", `"json"`, "", Restart, `Form of the log on standard error: "json" or "text".`,
			in(oneOf("json", "text"), func(c *Config) *string { return &c.Log.Format })),
		setting("log.slow_call", `"0s"`, "", Live, `A call that takes longer, waiting included, is logged; "0s": none is.`,
			in(duration(0), func(c *Config) *time.Duration { return &c.Log.SlowCall })),
		setting("log.access_sample", "0", "", Live, "Share of all calls that are logged: 0 for none, 0.01 for one in a hundred, 1 for all.",
			in(share(), func(c *Config) *float64 { return &c.Log.AccessSample })),
	}
}

func httpFields() []field {
	h := func(c *Config) *HTTP { return &c.HTTP }
	return []field{
		setting("http.listen", "", `"127.0.0.1:9464"`, Restart,
			`Where /metrics, /healthz and /readyz are served: an address, or "unix:" and a path. Not given: nowhere.`,
			in(httpAddress(), func(c *Config) *string { return &h(c).Listen })),
		setting("http.remote", "false", "", Restart, "Allow an address that other machines reach: all that they can ask is what these three tell.",
			in(boolean(), func(c *Config) *bool { return &h(c).Remote })),
		setting("http.hosts", "[]", "", Restart, `Names that requests may give as their host, beside "localhost" and addresses.`,
			in(names(`names of hosts, such as ["sidecar.example"]`, hostPattern), func(c *Config) *[]string { return &h(c).Hosts })),
	}
}
