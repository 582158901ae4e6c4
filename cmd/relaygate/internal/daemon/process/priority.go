//go:build linux

package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness of the daemon, as in nice(1). In a storm of logins the mail server's
// processes would leave each of its threads one share of many, and the tap's
// ring would overflow before they have had their turn: those who then logged in
// get no grant. It needs a few percent of what the mail server spends on the
// same logins.
const niceness = -10

// RaisePriority puts all threads of the process ahead of others. Threads to come
// inherit it. It needs CAP_SYS_NICE, unless whoever started the process has done it
// (Nice= of the unit).
func RaisePriority() error {
	const noNice = 20 // the system call tells 20 - niceness (getpriority(2))
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && noNice-p <= niceness {
		return nil
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list the own threads: %w", err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.Setpriority(unix.PRIO_PROCESS, id, niceness)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("raise the priority of thread %s: %w", thread.Name(), err)
		}
	}
	return nil
}
