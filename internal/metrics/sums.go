package metrics

import "slices"

// Sums are what a counter of the workers' stands at, by the values of one of its labels.
func (a *App) Sums(name, label string) map[string]float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]float64{}
	f := a.families[name]
	if f == nil || f.Kind != counter {
		return out
	}
	if i := slices.Index(f.labels, label); i >= 0 {
		for _, s := range f.series {
			out[s.values[i]] += s.sum
		}
	}
	return out
}
