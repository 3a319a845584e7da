// Package closed owns one question about a channel that is closed when something has come about, and never sent on: whether it has.
package closed

// Is says whether c is closed.
func Is(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
