package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"relaygate/authz"
)

// Client asks a daemon through its socket.
type Client struct {
	// Late is called where an answer takes longer than a person waits without wondering;
	// it may be nil.
	Late func()
	// Within bounds the wait for an answer.
	Within time.Duration

	socket string
	http   http.Client
}

// lateAfter is when Client.Late is called.
const lateAfter = 3 * time.Second

// NewClient makes a client; it connects when it is asked something.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	}
	return &Client{Within: AnswerLimit, socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return answer[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Grants asks for the list of grants, and puts it in order.
func (c *Client) Grants(ctx context.Context) ([]Grant, error) {
	list, err := answer[[]Grant](ctx, c, http.MethodGet, "/v1/grants", nil)
	slices.SortFunc(list, func(a, b Grant) int { return a.prefix().Compare(b.prefix()) })
	return list, err
}

// Denials asks for the list of denials.
func (c *Client) Denials(ctx context.Context) ([]Denial, error) {
	return answer[[]Denial](ctx, c, http.MethodGet, "/v1/denials", nil)
}

// Why asks for the story of an address.
func (c *Client) Why(ctx context.Context, a netip.Addr) (Story, error) {
	return answer[Story](ctx, c, http.MethodGet, "/v1/why?address="+url.QueryEscape(a.String()), nil)
}

// Watch calls each with one line of JSON per event until ctx is done or the
// daemon ends.
func (c *Client) Watch(ctx context.Context, each func(line []byte) error) error {
	body, err := c.ask(ctx, http.MethodGet, "/v1/watch", nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	lines.Split(wholeLines)
	for lines.Scan() {
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil // the person who watches has seen enough
	}
	err = lines.Err()
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("watch: %w", err)
	}
	return errors.New("relaygate has ended")
}

// wholeLines is bufio.ScanLines without what is left of a line that was cut off
// by the end of the stream.
func wholeLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if atEOF && bytes.IndexByte(data, '\n') < 0 {
		return len(data), nil, nil
	}
	return bufio.ScanLines(data, atEOF)
}

// answer asks, and reads the answer to its end: then its connection takes the next question.
func answer[T any](ctx context.Context, c *Client, method, path string, what io.Reader) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Within)
	defer cancel()
	body, err := c.ask(ctx, method, path, what)
	if err != nil {
		return v, err
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(body)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		return v, fmt.Errorf("read relaygate's answer: %w", err)
	}
	return v, nil
}

// SilentError says that no daemon answered.
type SilentError struct {
	Socket string
	// Err is why it could not be connected to, or errEnded; nil if it took the question
	// and did not answer Within that time.
	Err    error
	Within time.Duration
}

var errEnded = errors.New("relaygate ended before it answered")

func (e *SilentError) Error() string {
	switch {
	case errors.Is(e.Err, errEnded):
		return e.Err.Error()
	case e.Err == nil:
		return fmt.Sprintf("relaygate runs and did not answer within %s: it hangs, or has too much to do", authz.Span(e.Within))
	}
	return fmt.Sprintf("is relaygate running? cannot connect to %s: %v (start it, or name its socket with --socket)", e.Socket, e.Err)
}

func (e *SilentError) Unwrap() error { return e.Err }

// AnswerLimit is what Client.Within is if nobody says otherwise.
const AnswerLimit = 20 * time.Second

func (c *Client) ask(ctx context.Context, method, path string, what io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://relaygate"+path, what)
	if err != nil {
		return nil, fmt.Errorf("ask relaygate: %w", err)
	}
	if c.Late != nil {
		defer time.AfterFunc(lateAfter, c.Late).Stop()
	}
	res, err := c.http.Do(req)
	var op *net.OpError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the control socket %s is for root and its group: run this as root (%w)", c.socket, fs.ErrPermission)
	case errors.As(err, &op) && op.Op == "dial":
		return nil, &SilentError{Socket: c.socket, Err: op.Err}
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &SilentError{Socket: c.socket, Within: c.Within}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return nil, &SilentError{Socket: c.socket, Err: errEnded}
	case err != nil:
		return nil, fmt.Errorf("ask relaygate: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
		words := strings.TrimSpace(string(text))
		err := fmt.Errorf("relaygate answers: %s", words)
		switch res.StatusCode {
		case http.StatusUnprocessableEntity:
			err = &Refusal{words}
		case http.StatusForbidden:
			err = errors.New(words)
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			err = errors.New("the relaygate that runs does not know this verb: it is of another version, and would have to be restarted")
		}
		return nil, errors.Join(err, res.Body.Close())
	}
	return res.Body, nil
}
