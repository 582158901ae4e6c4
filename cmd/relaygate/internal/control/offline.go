package control

// Offline says that no daemon answered, and on what the answer rests instead.
type Offline struct {
	// Why says why no daemon answers, and Next what to do, in words.
	Why  string `json:"why"`
	Next string `json:"next"`
	// State is the path of the state file, AsOf when it was written last; null if it
	// cannot be read, as Error says.
	State string `json:"state"`
	AsOf  Time   `json:"as_of"`
	Error string `json:"error,omitempty"`
	// Gate says what the kernel does without the daemon, and Files what the files for
	// mail servers say, in words.
	Gate  string   `json:"gate"`
	Files []string `json:"files"`
	// InSet says whether the kernel's sets let the address in, null if that is not
	// known; Until is for how long, null for ever. InFile says whether relayhosts
	// names it.
	InSet  *bool `json:"in_set,omitempty"`
	Until  *Time `json:"until,omitempty"`
	InFile *bool `json:"in_file,omitempty"`
}
