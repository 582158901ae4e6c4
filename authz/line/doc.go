// Package line cuts the two directions of a text protocol into lines.
//
// A reader that proves something must cut a line exactly where the server cut
// it. The Reader therefore reports everything on which servers are known to
// disagree (a bare LF, a bare CR, NUL and other controls, TAB, octets with the
// eighth bit) and leaves it to the dialogue to decide whether its answer rule
// can bear that. It keeps nothing of a line longer than the line needs: text
// that came in one piece is never copied, and what had to be joined is wiped.
package line
