package store

import "fmt"

// apply takes in a record; an error is a body that is not what was written.
func (l *loader) apply(found item) error {
	if found.body == nil {
		return errBody
	}
	l.leftKnown = found.kind == kindEnd
	k := l.sessions[found.number]
	switch found.kind {
	case kindCreate, kindCopy:
		whole, err := decodeKept(found.number, found.body)
		if err != nil {
			return err
		}
		l.keep(whole, found.seq)
	case kindChange:
		d, err := decodeDelta(found.body)
		if err != nil {
			return err
		}
		l.follow(k, d, found)
	case kindDelete:
		if k != nil {
			l.drop(k)
		}
		l.gone[found.number] = found.seq
	case kindDamage:
		d, err := decodeDamage(found.number, found.body)
		if err != nil {
			return err
		}
		l.keep(&kept{number: d.Number, owner: d.Owner, id: d.ID, damage: d.Reason, size: len(found.body)}, found.seq)
	case kindLeft:
		left, err := decodeLefts(found.body)
		if err != nil {
			return err
		}
		l.setLeft(left)
	case kindNote:
		return l.applyNote(found)
	case kindEnd:
	default:
		return errBody
	}
	if found.number != 0 {
		l.touched[found.number] = found.seq
	}
	return nil
}

// follow applies a change, if it follows from what was read.
func (l *loader) follow(k *kept, d *delta, found item) {
	switch {
	case k == nil || k.damage != "" || k.last != found.prev:
		l.spoilNumber(found.number, found.seq, fmt.Sprintf("what came before record %d is missing", found.seq))
	default:
		l.change(k, d, found.seq)
	}
}

func (l *loader) applyNote(found item) error {
	n, err := decodeNote(found.body)
	if err != nil {
		return err
	}
	l.notes = append(l.notes, noted{n, found.seq})
	clear(l.touched)
	l.from = found.seq
	return nil
}

// resolve finds out which sessions had a record in a hole: the notes tell of most, and where none does, every session may have had
// one that has none after it.
func (l *loader) resolve() {
	for _, h := range l.holes {
		l.report(fmt.Sprintf("records %d to %d are missing", h.from, h.to-1))
		for _, n := range l.notes {
			if n.from <= h.from && h.from < n.seq {
				end := min(h.to, n.seq)
				l.resolveBy(n, hole{h.from, end})
				h.from = end
			}
		}
		if h.from < h.to {
			l.suspect(h)
		}
	}
	if n := len(l.holes); n > 0 {
		l.from = max(l.from, l.holes[n-1].to) // the next note does not tell of these
	}
}

func (l *loader) resolveBy(n noted, h hole) {
	for number, seq := range n.touched {
		if seq < h.from || seq >= h.to || l.gone[number] > seq {
			continue
		}
		if k := l.sessions[number]; k == nil || k.last < seq {
			l.spoilNumber(number, seq, fmt.Sprintf("record %d is missing", seq))
		}
	}
}

func (l *loader) suspect(h hole) {
	l.report(fmt.Sprintf("whose records %d to %d were is not known: sessions that were made there cannot be named", h.from, h.to-1))
	for _, k := range l.sessions {
		if k.last < h.from {
			l.spoil(k, fmt.Sprintf("records %d to %d are missing, and one of them may be its", h.from, h.to-1))
		}
	}
}
