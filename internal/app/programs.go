package app

import "github.com/dspex/dspex-sidecar/internal/config"

// dspySettings is what workers are told when they start of what programs may do, and of the programs that are configured.
func dspySettings(cfg *config.Config) map[string]any {
	programs := make(map[string]any, len(cfg.Programs))
	for name, p := range cfg.Programs {
		s := map[string]any{
			"program": p.Program, "signature": p.Signature, "module": p.Module, "tools": p.Tools, "description": p.Description,
			"instructions": p.Instructions, "model": p.Model, "state": p.State.Content, "demos": p.Demos.Content,
		}
		if len(p.Parameters) > 0 {
			s["parameters"] = p.Parameters
		}
		if p.Memory != nil {
			s["memory"] = p.Memory
		}
		programs[name] = withoutNothing(s)
	}
	d := cfg.DSPy
	return map[string]any{
		"media_urls": d.MediaURLs, "media_folders": d.MediaFolders, "program_of_thought": d.ProgramOfThought, "programs": programs,
		"optimize":        map[string]any{"executor": cfg.Optimize.Executor, "address": cfg.Optimize.Address},
		"code_timeout_ms": d.CodeTimeout.Milliseconds(), "code_memory": d.CodeMemory,
	}
}
