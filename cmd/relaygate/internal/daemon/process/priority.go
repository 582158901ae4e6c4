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

// RaisePriority puts the process ahead of others. It needs CAP_SYS_NICE, unless whoever
// started the process has done it, or allows it (Nice= and LimitNICE= of the unit).
func RaisePriority() error { return errors.Join(raiseSession(), raiseThreads()) }

// raiseSession is for kernels that share the processors out among sessions, where
// niceness counts within one alone (sched(7), autogroups). A service leads its own; that
// of a shell is left as it is.
func raiseSession() error {
	if leader, err := unix.Getsid(0); err != nil || leader != os.Getpid() {
		return nil
	}
	f, err := os.OpenFile("/proc/self/autogroup", os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // this kernel does not
	}
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(niceness))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("raise the priority of the session: %w", err)
	}
	return nil
}

// raiseThreads does it for all threads. Those to come inherit it.
func raiseThreads() error {
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
