package events

import (
	"fmt"
	"testing"
)

func TestReadersThatAreTooSlowLoseEvents(t *testing.T) {
	var h Hub
	lost := 0
	slow := h.Read(2, false, func(e *Event) bool { return e.Kind == "a" }, func() { lost++ })
	other := h.Read(10, true, func(*Event) bool { return true }, func() { t.Error("lost") })
	for i := range 5 {
		h.Publish(Event{Kind: "a", Fields: map[string]any{"i": i}})
	}
	h.Publish(Event{Kind: "b"})
	for i := range 2 {
		if e := <-slow.Events(); e.Fields["i"] != i || e.Fields["event"] != "a" || e.Fields["at"] == nil {
			t.Errorf("%d: %v", i, e)
		}
	}
	if n := slow.Lost(); n != 3 || lost != 3 || slow.Lost() != 0 || len(slow.Events()) != 0 {
		t.Errorf("%d lost, %d told", n, lost)
	}
	if len(other.Events()) != 6 || !h.Heard() || !h.FramesHeard() {
		t.Errorf("%d events", len(other.Events()))
	}
	for range 2 {
		slow.Close()
		other.Close()
	}
	if h.Heard() || h.FramesHeard() {
		t.Error("somebody is there")
	}
}

func TestNobodyHears(t *testing.T) {
	var none *Hub
	for _, h := range []*Hub{none, {}} {
		if n := testing.AllocsPerRun(100, func() {
			if h.Heard() {
				h.Publish(Event{Kind: "a", Fields: map[string]any{"s": fmt.Sprint(1)}})
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
		h.Publish(Event{})
	}
}
