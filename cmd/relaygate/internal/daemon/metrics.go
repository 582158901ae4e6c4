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

// listenMetrics opens the port of the metrics; nil where address is empty.
func listenMetrics(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics.listen: %w", err)
	}
	return l, nil
}

// runMetrics answers scrapes, if there is a port for them.
func (d *daemon) runMetrics(ctx context.Context, ready func()) error {
	ready()
	if d.scrapes == nil {
		<-ctx.Done()
		return nil
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(&collector{ctx: ctx, snapshot: d.snapshot}); err != nil {
		return fmt.Errorf("register the metrics: %w", err)
	}
	return serveMetrics(ctx, d.scrapes, newMetricsServer(registry, d.log))
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
