//go:build e2e

package overtls

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// serveAuthHTTP answers where the mailbox is, or that there is none.
func serveAuthHTTP(t *testing.T, ln net.Listener) {
	t.Helper()
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name, password := r.Header.Get("Auth-User"), r.Header.Get("Auth-Pass")
		h := rw.Header()
		if password != right && strings.HasSuffix(name, "0") {
			h.Set("Auth-Status", "Invalid login or password")
			h.Set("Auth-Wait", "1")
			return
		}
		port := 143
		if r.Header.Get("Auth-Protocol") == "pop3" {
			port = 110
		}
		h.Set("Auth-Status", "OK")
		h.Set("Auth-Server", atBusy.v4.String())
		h.Set("Auth-Port", strconv.Itoa(port))
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		must(t, s.Close())
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the program that nginx asks ended with %v", err)
		}
	})
}
