//go:build linux

// Package metrics shows the daemon's status to Prometheus.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"relaygate/cmd/relaygate/internal/control"
)

// What a scrape may take. Whoever can reach the port may be a stranger.
const (
	scrapeTimeout    = 5 * time.Second
	scrapeIdle       = time.Minute
	maxScrapeHeader  = 8 << 10
	maxScrapes       = 4  // at one time
	maxScrapeClients = 16 // connections
)

// retryEvery is how often a port that is taken is tried again.
const retryEvery = 5 * time.Second

// Endpoint is where the metrics are asked for.
type Endpoint struct {
	address  string // "": nowhere
	log      *slog.Logger
	listener net.Listener // nil while there is none
	problem  atomic.Pointer[string]
}

// Listen opens the port. It may be taken, by whomever: any user can listen above 1023.
// That keeps nothing from its work, and is said.
func Listen(address string, log *slog.Logger) *Endpoint {
	e := &Endpoint{address: address, log: log}
	e.listen()
	return e
}

func (e *Endpoint) listen() {
	if e.address == "" {
		return
	}
	l, err := net.Listen("tcp", e.address)
	if err != nil {
		e.fail(err)
		return
	}
	e.listener = l
	if e.problem.Swap(nil) != nil {
		e.log.Info("the metrics are served", "address", e.address)
	}
}

// fail says, once, why there is no port.
func (e *Endpoint) fail(err error) {
	e.listener = nil
	words := "the metrics cannot be served, which is tried again: " + err.Error()
	if was := e.problem.Swap(&words); was == nil || *was != words {
		e.log.Error("the metrics cannot be served: trying again", "error", err, "every", retryEvery)
	}
}

// Problem says in words why no metrics are served, "" if they are, or need not be.
func (e *Endpoint) Problem() string {
	if words := e.problem.Load(); words != nil {
		return *words
	}
	return ""
}

// Run answers scrapes, as long as there is a port for them, until ctx is done.
func (e *Endpoint) Run(ctx context.Context, snapshot Snapshot) error {
	if e.address == "" {
		return nil
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(&collector{ctx: ctx, snapshot: snapshot}); err != nil {
		return fmt.Errorf("register the metrics: %w", err)
	}
	for {
		if e.listener != nil {
			err := serve(ctx, e.listener, newServer(registry, e.log))
			if ctx.Err() != nil {
				return err
			}
			e.fail(err)
		}
		select {
		case <-time.After(retryEvery):
			e.listen()
		case <-ctx.Done():
			return nil
		}
	}
}

// Close gives the port up. It may come after the end of Run.
func (e *Endpoint) Close() error {
	if e.listener == nil {
		return nil
	}
	if err := e.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// serve serves until ctx is done, and then lets scrapes end.
func serve(ctx context.Context, l net.Listener, server *http.Server) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		// A scrape that does not end in time is cut off.
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		stopped <- err
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return errors.Join(fmt.Errorf("serve the metrics: %w", err), server.Close())
	}
	return <-stopped
}

// newServer serves what g gathers, and nothing else.
func newServer(g prometheus.Gatherer, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	}))
	return &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: scrapeTimeout, ReadTimeout: scrapeTimeout,
		WriteTimeout: 2 * scrapeTimeout, IdleTimeout: scrapeIdle, MaxHeaderBytes: maxScrapeHeader,
		ConnState: control.Bound(maxScrapeClients),
	}
}
