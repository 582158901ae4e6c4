package linetest

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"relaygate/authz"
)

// Fuzz runs a fuzz target: a beginning, then chunks that the fuzzer writes. In
// its text each chunk begins with C or S and ends with "|". The seeds are the
// cases of the scripts.
func Fuzz(f *testing.F, scripts string, beginnings []string, start func() Dialogue) {
	paths, err := filepath.Glob(scripts)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no scripts %s: %v", scripts, err)
	}
	for _, path := range paths {
		cases, err := Read(path)
		if err != nil {
			f.Fatal(err)
		}
		for i, c := range cases {
			f.Add(uint8(i), join(c.Chunks))
		}
	}
	f.Fuzz(func(t *testing.T, beginning uint8, text []byte) {
		d := start()
		whole := append([]byte(beginnings[int(beginning)%len(beginnings)]+"|"), text...)
		finished := false
		for _, c := range split(whole) {
			before := bytes.Clone(c.Bytes)
			verdicts := d.Feed(c)
			if !bytes.Equal(before, c.Bytes) {
				t.Errorf("the dialogue changed the chunk %q", before)
			}
			for _, l := range verdicts {
				if finished {
					t.Errorf("%s after the last verdict", String(l))
				}
				finished = l.Result != authz.Failure
				if len(l.User) > 255 || len(l.AuthzID) > 255 || len(l.Answer) > authz.AnswerLimit {
					t.Errorf("%+v is not bounded", l)
				}
				if l.Result != authz.Success && l.Reason == "" {
					t.Errorf("%s has no reason", l.Result)
				}
			}
			if finished != d.Done() {
				t.Errorf("finished %v, Done() %v", finished, d.Done())
			}
		}
	})
}

func join(chunks []authz.Chunk) []byte {
	var b bytes.Buffer
	for _, c := range chunks {
		b.WriteByte("CS"[c.Dir])
		b.Write(c.Bytes)
		b.WriteByte('|')
	}
	return b.Bytes()
}

func split(text []byte) (chunks []authz.Chunk) {
	for piece := range strings.SplitSeq(string(text), "|") {
		if piece == "" {
			continue
		}
		c := authz.Chunk{Dir: authz.FromClient, Bytes: []byte(piece[1:])}
		if piece[0] == 'S' {
			c.Dir = authz.FromServer
		}
		chunks = append(chunks, c)
	}
	return chunks
}
