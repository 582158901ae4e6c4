package main

import (
	"fmt"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// printOffline says first that no daemon answers, and of when the answer is.
func printOffline(e *env, o *control.Offline, now time.Time) {
	e.say("%s. %s", colour(e, red, o.Why), asOf(o, now))
}

// asOf says of when an answer is that no daemon gave.
func asOf(o *control.Offline, now time.Time) string {
	if o.AsOf.IsZero() {
		return "Nothing can be told from its state: " + o.Error + "."
	}
	words := fmt.Sprintf("This is from its state, last written %s (%s)", authz.Ago(now.Sub(o.AsOf.Time)), o.AsOf.Local().Format("2006-01-02 15:04:05"))
	if o.Error != "" {
		words += "; " + o.Error
	}
	return words + "."
}

// printAround says what is there besides the state, and what to do.
func printAround(e *env, o *control.Offline) {
	e.say("Kernel:  %s", o.Gate)
	for _, words := range o.Files {
		e.say("File:    %s.", words)
	}
	e.say("Next:    %s.", o.Next)
}

// noteOffline says on standard error what JSON for each line has no place for.
func noteOffline(e *env, o *control.Offline, now time.Time) {
	fmt.Fprintf(e.Stderr, "relaygate: %s. %s Next: %s.\n", o.Why, asOf(o, now), o.Next)
}
