//go:build linux

package daemon

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
)

// What a scrape may take. Whoever can reach the port may be a stranger.
const (
	scrapeTimeout    = 5 * time.Second
	scrapeIdle       = time.Minute
	maxScrapeHeader  = 8 << 10
	maxScrapes       = 4  // at one time
	maxScrapeClients = 16 // connections
)

// scrapes is where the metrics are asked for.
type scrapes struct {
	listener net.Listener // nil while there is none
	failed   atomic.Pointer[string]
}

// listen opens the port. It may be taken, by whomever: any user can listen above 1023.
// That keeps nothing from its work, and is said.
func (s *scrapes) listen(address string, log *slog.Logger) {
	if address == "" {
		return
	}
	var err error
	if s.listener, err = net.Listen("tcp", address); err != nil {
		s.listener = nil
		words := "the metrics cannot be served, which is tried again: " + err.Error()
		if was := s.failed.Swap(&words); was == nil || *was != words {
			log.Error("the metrics cannot be served: trying again", "error", err, "every", listenEvery)
		}
		return
	}
	if s.failed.Swap(nil) != nil {
		log.Info("the metrics are served", "address", address)
	}
}

// listenEvery is how often a port that is taken is tried again.
const listenEvery = 5 * time.Second

// runMetrics answers scrapes, if there is a port for them.
func (d *daemon) runMetrics(ctx context.Context, ready func()) error {
	ready()
	address := d.opts.Config.Metrics
	for address != "" && d.scrapes.listener == nil {
		select {
		case <-time.After(listenEvery):
			d.scrapes.listen(address, d.log)
		case <-ctx.Done():
			return nil
		}
	}
	if address == "" {
		<-ctx.Done()
		return nil
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(&collector{ctx: ctx, snapshot: d.snapshot}); err != nil {
		return fmt.Errorf("register the metrics: %w", err)
	}
	return serveMetrics(ctx, d.scrapes.listener, newMetricsServer(registry, d.log))
}

// serveMetrics serves until ctx is done, and then lets scrapes end.
func serveMetrics(ctx context.Context, l net.Listener, server *http.Server) error {
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

// newMetricsServer serves what g gathers, and nothing else.
func newMetricsServer(g prometheus.Gatherer, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	}))
	var clients atomic.Int64
	return &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: scrapeTimeout, ReadTimeout: scrapeTimeout,
		WriteTimeout: 2 * scrapeTimeout, IdleTimeout: scrapeIdle, MaxHeaderBytes: maxScrapeHeader,
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if clients.Add(1) > maxScrapeClients {
					_ = c.Close() // its reader sees that and ends it
				}
			case http.StateClosed, http.StateHijacked:
				clients.Add(-1)
			}
		},
	}
}
