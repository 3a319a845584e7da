package metrics

// Family is one metric's name and what it means.
type Family struct{ Name, Kind, Help string }

// The kinds of metrics.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// Families are all metrics but those of the application, in the order in which they are documented. No label holds what a client chose freely.
func Families() []Family {
	return []Family{
		{"dspex_active_sessions", gauge, "Sessions that there are."},
		{"dspex_pool_size", gauge, "Workers that the pool keeps, as configured; by pool."},
		{"dspex_healthy_workers", gauge, "Workers that take calls; by pool."},
		{"dspex_commands_total", counter, "Calls that the pool admitted; by pool."},
		{"dspex_errors_total", counter, "Calls of the pool that failed; by pool."},

		{"dspex_calls_total", counter, "Calls that were answered; by method (\"other\": not one of the application's or the sidecar's) and code (\"ok\", or the error's)."},
		{"dspex_call_run_seconds", histogram, "Time that calls ran in a worker; by method."},
		{"dspex_call_queue_seconds", histogram, "Time that calls waited for their turn and for a slot."},
		{"dspex_stream_items_total", counter, "Items of streams that were sent to clients."},
		{"dspex_received_bytes_total", counter, "Bytes of the frames that clients sent."},
		{"dspex_sent_bytes_total", counter, "Bytes of the answers and items that were sent to clients."},
		{"dspex_clients", gauge, "Connections of clients."},

		{"dspex_health", gauge, "1 for the status that sidecar.health gives, else 0; by status."},
		{"dspex_in_flight_calls", gauge, "Calls at workers; by pool."},
		{"dspex_queued_calls", gauge, "Calls that wait; by pool."},
		{"dspex_slots", gauge, "Calls that the ready workers take at a time; by pool."},
		{"dspex_paused", gauge, "1 while dispatch is paused, else 0; by pool."},
		{"dspex_workers", gauge, "Workers that there are; by pool and state."},
		{"dspex_worker_starts_total", counter, "Workers that were started; by pool."},
		{"dspex_worker_ends_total", counter, "Workers that ended; by pool and reason: planned, failed_start, crashed, stuck, memory, killed."},
		{"dspex_worker_memory_bytes", gauge, "Resident memory of workers' processes; by pool and place: a worker that takes another's place has its number."},

		{"dspex_runs", gauge, "Calls with a process of their own; by state: queued or running."},
		{"dspex_runs_ended_total", counter, "Such calls that ended; by state: succeeded, failed, cancelled or lost."},

		{"dspex_session_bytes", gauge, "What the sessions' states and kept answers take in memory."},
		{"dspex_restore_seconds", histogram, "Time from sending a session's state to a worker until it has taken it."},
		{"dspex_commits_total", counter, "Commits of sessions; by result: ok or failed."},
		{"dspex_commit_seconds", histogram, "Time that the store took to make a commit durable; none where it keeps sessions in memory."},

		{"dspex_lm_requests_total", counter, "Requests to language models, further attempts included; by model (as configured, or \"client\") and result: ok, error or cancelled."},
		{"dspex_lm_embed_requests_total", counter, "Requests to embedders, further attempts included; by embedder and result: ok, error or cancelled."},
		{"dspex_lm_embed_texts_total", counter, "Texts that were turned into vectors; by embedder."},
		{"dspex_lm_embed_tokens_total", counter, "Their tokens, as providers count them; by embedder."},
		{"dspex_lm_in_use", gauge, "Requests in flight to a language model, or embedder, that has limits; by model."},
		{"dspex_lm_queued", gauge, "Requests that wait for the limits of a model; by model."},
		{"dspex_lm_paused_seconds", gauge, "For how long a model's provider still wants to be left alone; by model."},
		{"dspex_lm_wait_seconds", histogram, "Time that requests waited for the limits of a model until they were let through; by model."},
		{"dspex_lm_request_seconds", histogram, "Time that a language model took to answer; by model."},
		{"dspex_lm_tokens_total", counter, "Tokens of language models; by model and kind: prompt or completion."},
		{"dspex_lm_cost_dollars_total", counter, "Cost of language models in US dollars, as far as prices are configured or DSPy knows them; by model."},
		{"dspex_lm_cache_hits_total", counter, "Answers that were kept from an earlier request; by model."},
		{"dspex_lm_program_requests_total", counter, "Answers of language models; by program (the application's by name, all others \"session\")."},
		{"dspex_lm_program_tokens_total", counter, "Tokens of those; by program."},
		{"dspex_lm_program_cost_dollars_total", counter, "Their cost in US dollars, as far as it is known; by program."},

		{"dspex_reloads_total", counter, "Reloads of the configuration; by result: ok, unchanged, refused or failed."},
		{"dspex_last_reload_succeeded", gauge, "1 where the last reload succeeded, or none was made; 0 where it was refused or failed."},
		{"dspex_events_lost_total", counter, "Events that readers of sidecar.events did not get since they were too slow."},
		{"dspex_app_samples_dropped_total", counter, "What workers reported of metrics that was not taken: too many metrics, labels, or series of a gauge, or not well formed."},
		{"dspex_uptime_seconds", gauge, "Time since the sidecar was started."},
		{"dspex_build_info", gauge, "1; by version."},
	}
}
