package gatewaycmd

import (
	"cmp"
	"log/slog"
	"os"

	"github.com/meshlite-go/meshlite/internal/cli"
)

// What servers of the mesh read from the environment, a gateway reads, too; docs/settings.md
// has the table. Its channels read MESHLITE_DISABLE by themselves.
const (
	envListen   = "MESHLITE_LISTEN_ADDRESS"
	envMetrics  = "MESHLITE_METRICS_ADDRESS"
	envRegion   = "MESHLITE_REGION"
	envZone     = "MESHLITE_ZONE"
	envLogLevel = "MESHLITE_LOG_LEVEL"
)

// environment sets what no flag has set.
func (o *Options) environment(given func(flag string) bool) error {
	if value := os.Getenv(envListen); value != "" && !given("listen") {
		o.Listen, o.listenSet = value, envListen
	}
	if value := os.Getenv(envMetrics); value != "" && !given("metrics-address") {
		o.MetricsAddress, o.metricsSet = value, envMetrics
	}
	if o.region, o.zone = os.Getenv(envRegion), os.Getenv(envZone); o.zone != "" && o.region == "" {
		return cli.Usagef("%s %q: Consul takes a zone only within its region: set %s, too", envZone, o.zone, envRegion)
	}
	if value := os.Getenv(envLogLevel); value != "" {
		if err := o.level.UnmarshalText([]byte(value)); err != nil {
			return cli.Usagef("%s %q: write debug, info, warn or error", envLogLevel, value)
		}
	}
	return nil
}

// listenBy is what sets the address to listen at, for errors.
func (o *Options) listenBy() string { return cmp.Or(o.listenSet, "--listen") }

// metricsBy is what sets the address of the metrics.
func (o *Options) metricsBy() string { return cmp.Or(o.metricsSet, "--metrics-address") }

// handling are the settings of the logger's handler.
func (o *Options) handling() *slog.HandlerOptions { return &slog.HandlerOptions{Level: o.level} }
