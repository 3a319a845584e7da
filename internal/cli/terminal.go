package cli

import (
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	gap       = 2  // spaces between columns
	lastRoom  = 12 // what the last column keeps before others are cut, too
	leastRoom = 4  // what every column keeps: a terminal too narrow for that wraps
)

// terminalWidth is how many columns the terminal has that w writes to; 0 where it is none, or does not say.
func terminalWidth(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil { // a file or a pipe
		return 0
	}
	return int(size.Col)
}

// fit cuts cells so that lines fit a terminal of that width: the last column first, then whichever is the widest.
// Width 0 leaves them whole.
func fit(lines [][]string, width int) {
	if width == 0 || len(lines) == 0 {
		return
	}
	room := widths(lines)
	last := len(room) - 1
	over := gap * last
	for _, w := range room {
		over += w
	}
	over -= width
	cut := func(column, least int) {
		if n := min(over, room[column]-least); n > 0 {
			room[column] -= n
			over -= n
		}
	}
	cut(last, lastRoom)
	for over > 0 {
		widest := 0
		for i, w := range room {
			if w > room[widest] {
				widest = i
			}
		}
		if room[widest] <= leastRoom {
			break
		}
		cut(widest, room[widest]-1)
	}
	for _, line := range lines {
		for i := range line {
			line[i] = shorten(line[i], room[i])
		}
	}
}

// widths are the columns' widths: every character counts as one.
func widths(lines [][]string) []int {
	out := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			out[i] = max(out[i], utf8.RuneCountInString(cell))
		}
	}
	return out
}

func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}
