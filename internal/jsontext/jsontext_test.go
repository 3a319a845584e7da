package jsontext

import "testing"

func TestHarmless(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "",
		"{\"a\":\"ü – 漢\"}\n":      "{\"a\":\"ü – 漢\"}\n",
		"\"\x1b\u009b\u2028\x7f\"": `"\u001b\u009b\u2028\u007f"`,
		"\"\U000e0001\"":           `"\udb40\udc01"`,
	} {
		if got := string(Harmless([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
