//go:build linux

package daemon

import (
	"context"

	"relaygate/cmd/relaygate/internal/control"
)

// Order answers the control socket.
func (d *daemon) Order(context.Context, control.By, control.Order) (control.Outcome, error) {
	return control.Outcome{}, &control.Refusal{Reason: "this order is not available yet"}
}
