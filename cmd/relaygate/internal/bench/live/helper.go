package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// Task is what a helper process is asked to do; Result is its answer. Both are
// one line of JSON.
type Task struct {
	Verb string
	// Count is how often, First the number of the first client address; each
	// turn takes the next one. Every Wrong-th login has a wrong password; 0 is
	// none.
	Count, First, Wrong int
	// For ends a storm. Workers are how many do it at the same time.
	For     time.Duration
	Workers int
	// Gap is the time from one turn's begin to the next one's, 0 for none.
	Gap time.Duration
	// Wait is between the positive answer and the SYN to port 25.
	Wait time.Duration
	// Port is the server's, Size what is sent, in bytes.
	Port, Size int
	// File is the log that the server writes from now on, "" for none.
	File string
}

// Result is what became of a Task.
type Result struct {
	Error string
	// Done counts the turns; of knocks Passed were let in.
	Done, Passed int
	Took         time.Duration
}

// roles are the helper processes: each does a Task.
var roles = map[string]func() func(Task) Result{
	"server": newServer,
	"client": newClient,
	"reader": newReader,
}

// Helper is the main function of a helper process. It ends with in.
func Helper(role string, in io.Reader, out io.Writer) error {
	start, ok := roles[role]
	if !ok {
		return fmt.Errorf("no helper is called %q", role)
	}
	var do func(Task) Result
	if err := must.Try(func() { do = start() }); err != nil {
		return err
	}
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	if err := answers.Encode(Result{}); err != nil { // ready
		return fmt.Errorf("say that it is ready: %w", err)
	}
	for {
		var t Task
		if err := requests.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a task: %w", err)
		}
		var result Result
		if err := must.Try(func() { result = do(t) }); err != nil {
			result.Error = err.Error()
		}
		if err := answers.Encode(result); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// helper is a helper process as its parent sees it.
type helper struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

// startHelper runs this program once more, in a namespace and a control group.
func startHelper(ctx context.Context, ns *netns.Namespace, group, role string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	h := &helper{role: role, cmd: exec.CommandContext(ctx, self, "-helper", role)}
	h.cmd.Stderr = os.Stderr
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := startIn(ns, group, h.cmd); err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	h.out = json.NewDecoder(out)
	if _, err := h.answer(); err != nil {
		return nil, errors.Join(err, h.stop())
	}
	return h, nil
}

// startIn starts a process in a namespace and a control group.
func startIn(ns *netns.Namespace, group string, cmd *exec.Cmd) error {
	folder, err := os.Open(group)
	if err != nil {
		return fmt.Errorf("open control group: %w", err)
	}
	defer folder.Close() //nolint:errcheck // it was only read
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
	return ns.Do(cmd.Start)
}

// do waits until a task is done.
func (h *helper) do(t Task) (Result, error) {
	if err := json.NewEncoder(h.in).Encode(t); err != nil {
		return Result{}, fmt.Errorf("ask the %s to %s: %w", h.role, t.Verb, err)
	}
	r, err := h.answer()
	if err != nil {
		return r, fmt.Errorf("%s: %w", t.Verb, err)
	}
	return r, nil
}

func (h *helper) answer() (r Result, err error) {
	if err := h.out.Decode(&r); err != nil {
		return r, fmt.Errorf("the %s gave no answer: %w", h.role, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("the %s: %s", h.role, r.Error)
	}
	return r, nil
}

func (h *helper) stop() error {
	if h == nil {
		return nil
	}
	if err := errors.Join(h.in.Close(), h.cmd.Wait()); err != nil {
		return fmt.Errorf("end the %s: %w", h.role, err)
	}
	return nil
}
