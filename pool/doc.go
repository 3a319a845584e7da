// Package pool owns worker processes and who gets them: their states, slots, pins, the queue with its fair turns and
// limits, deadlines and cancels of calls, respawn with backoff, heartbeats and shutdown. It knows that calls may come in
// flows that run one at a time, and not what a session holds.
//
// One mutex, Pool.mu, guards every decision. Frames are put into a worker's outbox under it, so that they leave in the
// order of the decisions; nothing is written, and no handler but Handler.Dispatch is called, before it is released.
package pool
