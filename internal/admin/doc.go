// Package admin owns what operators see and do: health, statistics, workers, clients, calls, events and metrics, and what administrators
// ask for. It holds no state of its own but whether the sidecar was ever up; what it changes it has the pool, the server and the log do.
package admin
