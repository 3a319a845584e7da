package session

import "github.com/dspex/dspex-sidecar/wire"

// LMUse is what language models have done for a session since it was made, or since the sidecar was started: it is not stored.
type LMUse struct {
	Requests, PromptTokens, CompletionTokens, CacheHits int64
	TookUS, WaitedUS                                    int64 // of all requests, one after the other
	Cost                                                float64
}

func (a *LMUse) add(b *LMUse) {
	a.Requests += b.Requests
	a.PromptTokens += b.PromptTokens
	a.CompletionTokens += b.CompletionTokens
	a.CacheHits += b.CacheHits
	a.TookUS += b.TookUS
	a.WaitedUS += b.WaitedUS
	a.Cost += b.Cost
}

// since is what has come to b, none of which has become less.
func (a *LMUse) since(b *LMUse) *LMUse {
	return &LMUse{
		Requests: max(0, a.Requests-b.Requests), PromptTokens: max(0, a.PromptTokens-b.PromptTokens),
		CompletionTokens: max(0, a.CompletionTokens-b.CompletionTokens), CacheHits: max(0, a.CacheHits-b.CacheHits),
		TookUS: max(0, a.TookUS-b.TookUS), WaitedUS: max(0, a.WaitedUS-b.WaitedUS), Cost: max(0, a.Cost-b.Cost),
	}
}

// decodeUsage is nil where there is nothing, or something of an application's own.
func decodeUsage(raw []byte) map[string]any {
	var u map[string]any
	if raw == nil || wire.Unmarshal(raw, &u) != nil {
		return nil
	}
	return u
}

// lmUseOf reads what a response says that the call's language models did.
func lmUseOf(u map[string]any) *LMUse {
	return &LMUse{
		Requests: count(u["lm_calls"]), PromptTokens: count(u["prompt_tokens"]), CompletionTokens: count(u["completion_tokens"]),
		CacheHits: count(u["cache_hits"]), TookUS: count(u["lm_us"]), WaitedUS: count(u["lm_wait_us"]), Cost: usageOf(u).Cost,
	}
}
