package keeper

import (
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// HangsAfter is how long writing may take, to the state file or another, before that is a
// problem: very much of it takes seconds.
const HangsAfter = 30 * time.Second

// Status fills in how the state file is.
func (k *Keeper) Status(s *control.Status) {
	st := k.store.Stats()
	s.State = control.State{
		Path: k.path, Written: control.Time{Time: st.Written}, Records: st.Records,
		Errors: st.Errors, Pending: k.pending(), Error: st.LastError, Aside: k.store.Aside(),
	}
	s.Drops["state: changes without room"] = st.Lost
	if st.LastError != "" {
		s.Problems = append(s.Problems, "the state cannot be written, so that a restart would forget: "+st.LastError)
	}
	if since := time.Since(st.Began); !st.Began.IsZero() && since > HangsAfter {
		s.Problems = append(s.Problems, "the state is being written for "+authz.Span(since)+": its file system hangs, so that a restart would forget")
	}
	if s.State.Aside != "" {
		s.Problems = append(s.Problems, s.State.Aside)
	}
}
