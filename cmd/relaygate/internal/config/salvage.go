package config

import (
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Salvage is what can be read of a file that Load refuses, line by line, so that what
// it names can be left closed: the files for mail servers, whether they shall stay, and
// where a relaygate that runs, and its state, would be. All else is as by default. It
// reports false if the file cannot be read: then it is the defaults.
func Salvage(path string) (known *Config, ok bool) {
	var r raw
	known, err := Default()
	if err != nil { // on a host without a user root, say
		known = new(Config)
	}
	if decode("default.toml", DefaultFile, &r) != nil {
		return known, false // it is a part of the program
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
	known.Relayhosts, known.UsersFile, known.Socket, known.StatePath = r.Files.Relayhosts, r.Files.Users, r.Control.Socket, r.State.Path
	for _, p := range []*string{&known.Relayhosts, &known.UsersFile, &known.Socket, &known.StatePath} {
		if !filepath.IsAbs(*p) {
			*p = ""
		}
	}
	for exit, word := range exits {
		if r.Gate.OnExit == word {
			known.Gate.OnExit = OnExit(exit)
		}
	}
	return known, err == nil
}
