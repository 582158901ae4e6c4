package config

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Salvage is what can be read of a file that Load refuses, line by line, so that what
// it names can be left closed: the files for mail servers, whether they shall stay, and
// where a relaygate that runs would be. It reports false if nothing is named.
func Salvage(path string) (*Config, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	var r raw
	if err := decode("default.toml", DefaultFile, &r); err != nil {
		return nil, false
	}
	table := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && toml.Unmarshal([]byte(line), new(map[string]any)) == nil {
			table = line + "\n"
			continue
		}
		with := r
		if toml.Unmarshal([]byte(table+line), &with) == nil {
			r = with
		}
	}
	cfg := &Config{Relayhosts: r.Files.Relayhosts, UsersFile: r.Files.Users, Socket: r.Control.Socket, StatePath: r.State.Path}
	for _, p := range []*string{&cfg.Relayhosts, &cfg.UsersFile, &cfg.Socket, &cfg.StatePath} {
		if !filepath.IsAbs(*p) {
			*p = ""
		}
	}
	for exit, word := range exits {
		if r.Gate.OnExit == word {
			cfg.Gate.OnExit = OnExit(exit)
		}
	}
	return cfg, cfg.Relayhosts != "" || cfg.UsersFile != ""
}
