package admin

import "testing"

func TestWaiting(t *testing.T) {
	for calls, want := range map[int]string{1: "1 call waits", 2: "2 calls wait"} {
		if got := waiting(calls); got != want {
			t.Errorf("%d: got %q, want %q", calls, got, want)
		}
	}
}
