package story

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/relayhosts"
)

// Before is the story of an address in files before relaygate first wrote them: what an
// administrator or another program had written there. Events come with an error too.
func Before(a netip.Addr, paths ...string) (events []authz.Event, err error) {
	for _, path := range paths {
		line, failed := relayhosts.Before(path, a)
		if failed != nil {
			err = errors.Join(err, failed)
		}
		if line != nil {
			events = append(events, authz.Event{
				Kind: authz.EventFile, Time: line.Time, Last: line.Time, Count: 1, Prefix: line.Prefix,
				Reason: "was in " + path + " before relaygate first wrote it: “" + authz.QuoteWords(line.Text) + "”, see " + line.Path,
			})
		}
	}
	return events, err
}

// Usual is where mail servers of antirelayd look: relaygate may be there to find out who
// else writes it.
const Usual = "/etc/relayhosts"

// Foreign says that the file at path, which relaygate does not write, names an address;
// "" if it does not, or cannot be read.
func Foreign(path string, a netip.Addr) string {
	line, err := relayhosts.Now(path, a)
	if err != nil || line == nil {
		return ""
	}
	return fmt.Sprintf("%s names it, which relaygate does not write, as files.relayhosts is empty: somebody else did, last %s",
		path, line.Time.Format("2006-01-02 15:04"))
}

// ReadWithin is how long it may take to read a file for mail servers.
const ReadWithin = 2 * time.Second

// ErrHangs is about one that takes longer.
var ErrHangs = errors.New("its file system hangs")

// Soon reads such files. Where their file system hangs, as one of a network does, nobody waits
// for that, but a thread does.
func Soon[T any](read func() (T, error)) (T, error) {
	type answer struct {
		of  T
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		of, err := read()
		answers <- answer{of, err}
	}()
	select {
	case a := <-answers:
		return a.of, a.err
	case <-time.After(ReadWithin):
		var none T
		return none, ErrHangs
	}
}
