package linetest

import "regexp"

// late is a server that reads on while it has something checked elsewhere, as Twisted
// has passwords: a refusal comes behind the answers to some of what came after its line.
type late struct {
	Server
	behind  int    // so many answers come before a refusal
	refusal []byte // the one that is to come
	left    int    // so many answers come before it
}

var refuses = regexp.MustCompile(`^(-ERR|\S+ NO) `)

func (s *late) Read(in []byte) (taken int, out []byte) {
	if s.refusal != nil && s.left == 0 {
		out, s.refusal = s.refusal, nil
		return 0, out
	}
	taken, out = s.Server.Read(in)
	switch {
	case s.refusal != nil && len(out) > 0:
		s.left--
	case s.refusal != nil && taken == 0:
		out, s.refusal = s.refusal, nil
	case refuses.Match(out):
		s.refusal, s.left, out = out, s.behind, nil
	}
	return taken, out
}
