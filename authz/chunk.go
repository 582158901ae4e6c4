package authz

// Chunk is the next piece of one direction of a connection, in the order in
// which the server's kernel gave and took it: client bytes come when the server
// acknowledged them, and always before the server bytes of the segment that
// acknowledged them.
type Chunk struct {
	Dir Dir
	// Bytes is valid only until the dialogue returns. It can hold passwords:
	// copy nothing out of it but what a Login carries.
	Bytes []byte
	// Cut counts the bytes that the server sent right behind Bytes and that
	// the tap did not keep (snap length). Client bytes are never cut.
	Cut int
	// Whole says that one segment of the client, or one read of a TLS library, brought
	// all of Bytes: who reads what came reads no line in it in parts.
	Whole bool
}
