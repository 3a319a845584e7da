// Package session owns sessions: whose they are, their state and its versions, their expiry, and the commit of a call's
// changes before its answer goes out. It hands calls to the pool in one flow a session, and does not speak to processes.
//
// Lock order: the pool's lock, then Table.mu. No method of the pool is called under Table.mu.
package session
