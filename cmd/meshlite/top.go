package main

import (
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newTopCommand() *cobra.Command {
	var o cli.TopOptions
	cmd := &cobra.Command{
		Use:        "top [SERVICE...]",
		SuggestFor: []string{"watch", "stats"},
		Short:      "Show how much services and their instances are called, how well and how fast",
		Long: `Show how much services are called, how well and how fast, and each of their instances
below them, the busiest first, until q or ctrl-C. The figures are the processes' own,
read from /metrics every --interval. No Prometheus is needed. Processes are found as by
cache stats, anew every 10 s; name others by --client. A process that does not
answer is shown with the reason. On a terminal the table is redrawn in place, else a new
one is written each time.

CALLS/S   calls that have ended
OK        part of them without a server error (code_class): callers' errors and refusals
          by a rate limit count as OK
P50 ...   percentiles of the latency, of all instances together, interpolated between the
          bounds of two buckets; > is beyond the last bucket. Streams are left out without
          --methods, since they have no usual duration
ACTIVE    calls in flight
SHARE     part of the service's calls
CACHE     part of the calls of cached methods that a cache of the process answered, on the
          server and the client side
REFUSED   calls per second that a rate or concurrency limit refused

Calls of gRPC's own services, such as health checks, are left out. "-" is an unknown
value. On a narrow terminal, columns are left out.

With --methods, the methods of a service take the place of its instances. With --outgoing,
the calls are those that processes make, after all retries, instead of those that they
serve. Use it for a program that is only a client.

With -o json there is one object a line for each interval, one in all with --once: time,
seconds (that it is of), services, a list of service, the figures, instances, methods;
errors (what could not be read from Consul). Instances is a list of id, address (of the admin
page), error (why it could not be asked), share, the figures. Methods is a list of method
(package.Service/Method), share, the figures. The figures are calls_per_second, success,
p50_ms, p95_ms, p99_ms, in_flight, cache (parts are from 0 to 1), refused_per_second, and
null where they are not known.`,
		Example: `  meshlite top
  meshlite top storefront catalog --interval 5s
  meshlite top storefront --methods --once
  meshlite top --outgoing --client 127.0.0.1:9090
  meshlite top --once -o json | jq '.services[] | select(.success != null and .success < 0.999) | .service'`,
		ValidArgsFunction: completeService(&o.Agent, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Services, o.Format = args, outputOf(cmd)
			return cli.Top(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addProcesses(cmd, &o.ProcessesOptions)
	f := cmd.Flags()
	f.DurationVar(&o.Interval, "interval", 2*time.Second, "time between two readings")
	f.BoolVar(&o.Once, "once", false, "end after one interval")
	f.BoolVar(&o.Methods, "methods", false, "show the methods of each service instead of its instances")
	f.BoolVar(&o.Outgoing, "outgoing", false, "show calls that processes make instead of those that they serve")
	noCompletion(cmd, "interval")
	return cmd
}
