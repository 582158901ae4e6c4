package control

// TLS says how far connections in TLS are read.
type TLS struct {
	// On is true while plaintext is tapped; Why says in words why it is not.
	On  bool   `json:"on"`
	Why string `json:"why"`
	// Handshakes counts connections in TLS since the start, Seen those whose
	// plaintext was read, Unseen those of which none came in time.
	Handshakes uint64 `json:"handshakes"`
	Seen       uint64 `json:"seen"`
	Unseen     uint64 `json:"unseen"`
	// Servers are the programs that listen on watched ports.
	Servers []TLSServer `json:"servers"`
}

// TLSServer is a server and its processes.
type TLSServer struct {
	Name      string   `json:"name"`
	PID       int      `json:"pid"` // 0: init alone holds the listeners
	Listeners []string `json:"listeners"`
	Processes int      `json:"processes"`
	// Seen is true if its TLS is read. Words tell how, or why not.
	Seen  bool   `json:"seen"`
	Words string `json:"words"`
	// Handshakes and Read count its connections in TLS and those that were
	// read.
	Handshakes uint64       `json:"handshakes"`
	Read       uint64       `json:"read"`
	Libraries  []TLSLibrary `json:"libraries"`
}

// TLSLibrary is the file of a TLS library that a server uses.
type TLSLibrary struct {
	Path string `json:"path"`
	// Users are the server's programs that use it. Others are programs beside
	// the server that do: each of their calls costs a little, too.
	Users    []string `json:"users"`
	Others   []string `json:"others"`
	Attached bool     `json:"attached"`
	Why      string   `json:"why"` // why it is not attached
}
