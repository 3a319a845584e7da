package app

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dspex/dspex-sidecar/wire"
)

// Calls without an end keep the workers of older generations: not of more than 4, and no longer than the calls are wanted.
func TestOlderGenerationsAreBounded(t *testing.T) {
	p := newPlace(t, self(t), "cancel_grace = '50ms'")
	p.serve(t)
	c, holder := p.connect(t), p.connect(t)
	renew := func() params { return get(t, c, "admin.reload", params{"wait": true, "renew": true}) }
	for held := 1; held <= 4; held++ {
		holder.Send(wire.KindRequest, 1+held, "hang", nil, nil)
		await(t, "the call", func() bool {
			return strings.Count(fmt.Sprint(get(t, c, "sidecar.calls", nil)["calls"]), "state:running") == held
		})
		if a := renew(); a["status"] != "in_force" {
			t.Fatalf("with %d calls: %v", held, a)
		}
	}
	if a := renew(); a["status"] != "failed" || !strings.HasPrefix(fmt.Sprint(a["reason"]), "4 older generations of workers still have calls") {
		t.Errorf("%v", a)
	}
	holder.Send(wire.KindCancel, 2, nil)
	if m := holder.Receive(); m.Error == nil || m.Error.Code != wire.CodeCancelled {
		t.Errorf("%+v", m)
	}
	await(t, "room for one more", func() bool { return renew()["status"] == "in_force" })
}
