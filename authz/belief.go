package authz

// Belief says whether what a mail server is seen to say may be believed.
type Belief uint8

const (
	// Undecided is no, until it is asked again: not all is known yet.
	Undecided Belief = iota
	// Disbelieved is no for good.
	Disbelieved
	Believed
)

var beliefWords = []string{Undecided: "undecided", Disbelieved: "disbelieved", Believed: "believed"}

func (b Belief) String() string { return Word(beliefWords, b) }
