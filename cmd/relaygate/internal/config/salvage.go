package config

import (
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Salvage is what can be read of a file that Load refuses, line by line, so that what
// it names can be left closed: the files for mail servers, whether they shall stay, and
// where a relaygate that runs, and its state, would be. It reports false if the file
// cannot be read: then it is what the defaults say.
func Salvage(path string) (known *Config, ok bool) {
	var r raw
	if decode("default.toml", DefaultFile, &r) != nil {
		return new(Config), false // it is a part of the program
	}
	data, err := readFile(path)
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
	return cfg, err == nil
}
