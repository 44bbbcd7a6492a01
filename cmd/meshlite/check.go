package main

import (
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newCheckCommand() *cobra.Command {
	var o cli.CheckOptions
	cmd := &cobra.Command{
		Use:        "check [SERVICE...]",
		SuggestFor: []string{"doctor", "status", "ping"},
		Short:      "Find out what is wrong with Consul, the clock and the instances of services",
		Long: `Check Consul (reachable, has a leader, accepts the token), the clock, and all
instances of the named services, or of all services: the address is reachable,
grpc.health.v1 answers SERVING, Consul's status agrees, no two instances claim one
address, and clients support all parts of the service's routes. Each problem is printed with its fix.

  ✓  passed
  !  warning: perhaps not intended
  ✗  failed: the exit code is 1

Instances are asked in plaintext unless --tls, --identity or a flag about certificates is given,
16 at once, each for 2 s at most.

With -o json there is one object: passed, warnings, failed (how many), checks, a list
of group (consul, clock, service), service, instance, address, name (what was
checked), result (passed, warning, failed), text, fix.`,
		Example: `  meshlite check
  meshlite check catalog inventory --cacert ca.pem
  meshlite check -o json | jq -r '.checks[] | select(.result == "failed") | .text'`,
		ValidArgsFunction: completeService(&o.Agent, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Services = args
			o.Format = outputOf(cmd)
			return cli.Check(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	f := cmd.Flags()
	f.DurationVar(&o.Timeout, "timeout", time.Minute, "how long all of it may take")
	f.BoolVar(&o.TLS, "tls", false, "the instances speak TLS")
	f.StringVar(&o.Security.CACert, "cacert", "", "PEM `file` of the authorities to trust, instead of the system's; TLS")
	f.StringVar(&o.Security.Cert, "cert", "", "PEM `file` of the certificate to show; TLS")
	f.StringVar(&o.Security.Key, "key", "", "PEM `file` of its private key")
	f.StringVar(&o.Security.Identity, "identity", "", identityUsage)
	f.StringVar(&o.Security.ServerName, "servername", "", "`name` that the instances must prove, instead of the service's; TLS")
	return cmd
}
