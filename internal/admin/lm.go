package admin

// lm is what language models have done so far, as the workers have told: all in all, by model and by program.
func (a *Admin) lm() map[string]any {
	app := a.cfg.Metrics.App
	by := func(label string, names map[string]string) map[string]map[string]any {
		out := map[string]map[string]any{}
		for key, name := range names {
			for value, sum := range app.Sums(name, label) {
				if out[value] == nil {
					out[value] = map[string]any{"requests": int64(0), "tokens": int64(0), "cost": 0.0}
				}
				if key == "cost" {
					out[value][key] = sum
				} else {
					out[value][key] = int64(sum)
				}
			}
		}
		return out
	}
	models := by("model", map[string]string{ //nolint:gosec // tokens of language models are no credentials
		"requests": "dspex_lm_requests_total", "tokens": "dspex_lm_tokens_total", "cost": "dspex_lm_cost_dollars_total",
	})
	requests, tokens, cost := int64(0), int64(0), 0.0
	for _, m := range models {
		requests += m["requests"].(int64) //nolint:forcetypeassert // as made above
		tokens += m["tokens"].(int64)     //nolint:forcetypeassert // likewise
		cost += m["cost"].(float64)       //nolint:forcetypeassert // likewise
	}
	return map[string]any{
		"requests": requests, "tokens": tokens, "cost": cost, "models": models,
		"programs": by("program", map[string]string{ //nolint:gosec // likewise
			"requests": "dspex_lm_program_requests_total", "tokens": "dspex_lm_program_tokens_total", "cost": "dspex_lm_program_cost_dollars_total",
		}),
	}
}
