package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newProbeCommand() *cobra.Command {
	var o cli.ProbeOptions
	cmd := &cobra.Command{
		Use:        "probe HOST:PORT | --http URL",
		SuggestFor: []string{"health", "healthcheck", "grpc_health_probe"},
		Short:      "Ask one process whether it is healthy, for a container's health check",
		Long: `Ask one process whether it is healthy, straight at its address: for health checks of
containers and orchestrators, in images that have no shell. A gRPC server is asked by
grpc.health.v1 and must answer SERVING; with --http, a GET must be answered with 2xx, and
redirects are not followed. Consul, policies and proxies of the environment have no part in it.

The exit code is 0 if it is healthy, 1 if it is not or does not answer in time, 2 if the command
line is wrong.

With -o json there is one object: target, healthy, status (SERVING, NOT_SERVING, the code of a
failure, or 200 OK), message, duration_ms.`,
		Example: `  meshlite probe --plaintext 127.0.0.1:8080
  meshlite probe --plaintext [::1]:8080 --service sweetshop.catalog.v1.CatalogService
  meshlite probe 10.0.0.7:8443 --cacert ca.pem --servername catalog
  meshlite probe --wait 30s --http http://127.0.0.1:8080/readyz`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cli.Usagef("probe takes one HOST:PORT, not %d arguments: write meshlite probe 127.0.0.1:8080", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Address, o.Format = firstOf(args), outputOf(cmd)
			return cli.Probe(cmd.Context(), o, streamsOf(cmd))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Service, "service", "", "ask for one `service` of the server, such as package.Service, instead of all of it")
	f.StringVar(&o.URL, "http", "", "ask an HTTP server: GET `URL`")
	f.DurationVar(&o.Timeout, "timeout", 2*time.Second, "how long an answer may take: less than the timeout of the check that runs it")
	f.DurationVar(&o.Wait, "wait", 0, "ask again until it is healthy, for so long: for scripts that start or restart it")
	addSecurity(cmd, &o.Security, "address")
	noCompletion(cmd, "service", "http", "timeout", "wait")
	return cmd
}
