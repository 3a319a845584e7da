// Package runs owns the calls that have a process of their own: who began them, how they stand, what became of them, and who follows them. It
// hands each to a pool whose workers take one call, and knows nothing of clients' connections, of what a call is about, or of processes.
package runs
