package control

// TLS says how far connections in TLS are read.
type TLS struct {
	// On is true while plaintext is tapped; Why says in words why it is not.
	On  bool   `json:"on"`
	Why string `json:"why"`
	// Lacks says in words which servers are not seen, and why; "" if all are.
	Lacks string `json:"lacks,omitempty"`
	// Handshakes counts connections in TLS since the start, Seen those whose
	// plaintext was read, Unseen those of which none came in time.
	Handshakes uint64 `json:"handshakes"`
	Seen       uint64 `json:"seen"`
	Unseen     uint64 `json:"unseen"`
	// Calls counts the calls of TLS libraries whose plaintext was taken.
	Calls uint64 `json:"calls"`
	// Servers are the programs that listen on watched ports.
	Servers []TLSServer `json:"servers"`
}

// TLSServer is a server and its processes.
type TLSServer struct {
	Name      Text     `json:"name"`
	PID       int      `json:"pid"` // 0: init alone holds the listeners
	Listeners []string `json:"listeners"`
	Processes int      `json:"processes"`
	// TLS is true if it is known to speak TLS, Seen if that is read. Words tell
	// how, or why not.
	TLS   bool `json:"tls"`
	Seen  bool `json:"seen"`
	Words Text `json:"words"`
	// Handshakes and Read count its connections in TLS and those that were
	// read.
	Handshakes uint64       `json:"handshakes"`
	Read       uint64       `json:"read"`
	Libraries  []TLSLibrary `json:"libraries"`
}

// TLSLibrary is the file of a TLS library that a server uses.
type TLSLibrary struct {
	Path Text `json:"path"`
	// Users are the server's programs that use it. Others are programs beside
	// the server that do: each of their calls costs a little, too.
	Users    []Text `json:"users"`
	Others   []Text `json:"others"`
	Attached bool   `json:"attached"`
	Why      Text   `json:"why"` // why it is not attached
}
