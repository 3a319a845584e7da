package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/dspex/dspex-sidecar/internal/config"
	"github.com/dspex/dspex-sidecar/internal/plainfile"
	"github.com/dspex/dspex-sidecar/internal/session"
	"github.com/dspex/dspex-sidecar/internal/store"
)

func sessionSettings(cfg *config.Config) session.Settings {
	s, b := &cfg.Sessions, &cfg.Budgets
	return session.Settings{
		TTL: s.TTL, MaxAge: s.MaxAge, Max: s.Max, MaxState: s.MaxState, MaxTotal: s.MaxTotal,
		AutoCreate: s.AutoCreate, AnswerTTL: s.AnswerTTL, WeightLabel: s.WeightLabel, Weights: s.Weights,
		Budgets: session.Budgets{Session: amounts(&b.Session), SessionDay: amounts(&b.SessionDay), OwnerDay: amounts(&b.OwnerDay)},
	}
}

func amounts(b *config.Budget) store.Amounts {
	a := store.Amounts{Calls: int64(b.Calls), Tokens: int64(b.Tokens)}
	if b.Cost != nil {
		a.Cost = *b.Cost
	}
	return a
}

// openStore opens the store that the configuration names.
func openStore(cfg *config.Config, log *slog.Logger) (store.Store, error) {
	s := &cfg.Sessions
	if s.Store != "file" {
		return store.Memory{}, nil
	}
	o := store.Options{Log: log}
	if s.KeyFile != "" {
		key, err := readKey(s.KeyFile)
		if err != nil {
			return nil, &config.Error{Key: "sessions.key_file", Message: "cannot be used: " + err.Error()}
		}
		o.Seal = key
		if info, err := os.Stat(s.KeyFile); err == nil && info.Mode().Perm()&0o077 != 0 {
			log.Warn("others may read the key that seals secrets; its file should have mode 0600", "file", s.KeyFile, "mode", info.Mode().Perm().String())
		}
	}
	f, err := store.OpenFile(s.Path, o)
	if err != nil {
		return nil, fmt.Errorf("sessions.path: %w", err)
	}
	return f, nil
}

// keySize is what AES-256 takes.
const keySize = 32

// readKey reads 32 bytes in base64. Its errors hold nothing of the file.
func readKey(path string) ([]byte, error) {
	f, err := plainfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keySize {
		return nil, errors.New("does not hold 32 bytes in base64; make them with: openssl rand -base64 32")
	}
	return key, nil
}
