package line

// Reasons of both dialogues, who give them in the same words: they are counted by these.
const (
	// ReasonControl is also that of a TAB in a client's line that may have none.
	ReasonControl = "control character in a client line"
	// ReasonHidden: a server that loses the beginning of a line would run its end.
	ReasonHidden  = "a line that ends with another command"
	ReasonSurplus = "answer belongs to no command"

	ReasonOverLong = "over-long command line"
	ReasonTooMany  = "too many commands without an answer"

	reasonNUL        = "NUL in a server line"
	reasonLongClient = "client line is too long"
	reasonLongServer = "server line is too long"
)

// ReasonHello is why a connection is encrypted whose client begins with TLS.
const ReasonHello = "TLS from the first byte"

// Bounds are the reasons that say of a bound that it was hit.
var Bounds = []string{reasonLongClient, ReasonOverLong, reasonLongServer, ReasonTooMany}
