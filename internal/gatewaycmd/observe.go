package gatewaycmd

import (
	"context"
	"time"

	"github.com/meshlite-go/meshlite/admin"
	"github.com/meshlite-go/meshlite/gateway"
	"github.com/meshlite-go/meshlite/interceptors/tracing"
	"github.com/meshlite-go/meshlite/interceptors/tracing/env"
)

// flushTimeout is for the spans that are left at the end.
const flushTimeout = 5 * time.Second

// openTracing traces as the variables OTEL_* of the environment describe. Without them the edge
// passes the trace of a request on as it is.
func (r *run) openTracing(ctx context.Context) error {
	telemetry, err := env.New(ctx)
	if err != nil {
		return err
	}
	r.onClose(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := telemetry.Shutdown(ctx); err != nil {
			r.log.Warn("spans are lost", "error", err)
		}
	})
	if telemetry.Active() {
		r.tracing, err = tracing.New(telemetry.Options()...)
	}
	return err
}

// serveAdmin serves the admin page.
func (r *run) serveAdmin() error {
	if r.MetricsAddress == "" {
		return nil
	}
	handler, err := r.runtime.AdminHandler(
		admin.WithReadiness(r.readiness),
		admin.WithStats("gateway", func() any { return r.gateway.Stats() }),
		admin.WithStats("sites", func() any { return statsOf(r.sites) }))
	if err != nil {
		return err
	}
	listener, err := listen(r.metricsBy(), r.MetricsAddress)
	if err != nil {
		return err
	}
	if r.identity != nil {
		r.admin = admin.ServeTLS(listener, handler, r.identity.ServerTLS())
	} else {
		r.admin = admin.Serve(listener, handler)
	}
	r.onClose(func() { _ = r.admin.Close() })
	return nil
}

// readiness is what /readyz of both addresses reports.
func (r *run) readiness() error {
	if err := r.server.Readiness(); err != nil {
		return err
	}
	return r.gateway.Ready()
}

func statsOf(sites []gateway.Site) []gateway.SiteStats {
	all := []gateway.SiteStats{}
	for _, s := range sites {
		all = append(all, s.Stats())
	}
	return all
}
