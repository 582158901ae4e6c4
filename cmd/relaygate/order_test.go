package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/control"
)

// An order that finds nobody tells what the configuration has to do with that.
func TestOrderThatFindsNobody(t *testing.T) {
	const other = "the configuration has it at /run/other.sock"
	for _, tt := range []struct{ name, file, want string }{
		{"the same socket", "[control]\nsocket = \"SOCKET\"\n", ""},
		{"another socket", "[control]\nsocket = \"/run/other.sock\"\n", "; " + other},
		{"a mistake elsewhere", "[gate]\nmode = \"x\"\n[control]\nsocket = \"SOCKET\"\n", "; the configuration has mistakes: FILE:2: gate.mode"},
		{"another socket, and a mistake", "[gate]\nmode = \"x\"\n[control]\nsocket = \"/run/other.sock\"\n", "; " + other},
		{"a socket without a path", "[control]\nsocket = \"other.sock\"\n", "; the configuration has mistakes: FILE:2: control.socket"},
		{"a socket that is no text", "[control]\nsocket = /run/other.sock\n", "; the configuration has mistakes: FILE:2: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "relaygate.toml")
			must(t, os.WriteFile(file, []byte(strings.ReplaceAll(tt.file, "SOCKET", defaultSocket)), 0o600))
			f := orderFlags{clientFlags: clientFlags{config: file}}
			silence := &control.SilentError{Socket: defaultSocket, Err: errors.New("nobody answers")}
			got := strings.TrimPrefix(f.unheard(silence).Error(), silence.Error())
			if want := strings.ReplaceAll(tt.want, "FILE", file); !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("after the error comes %q, want %q", got, want)
			}
		})
	}
}
