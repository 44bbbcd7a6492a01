package main

import (
	"math"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newCertsCommand() *cobra.Command {
	var o cli.CertsOptions
	cmd := &cobra.Command{
		Use:        "certs [SERVICE...]",
		SuggestFor: []string{"cert", "certificates", "identity", "tls"},
		Short:      "Show who services are by Consul's CA, and until when",
		Long: `Ask Consul's agent for the certificate of each named service, or of all that are
registered, as a process of the service does, and show its SPIFFE id, its end, and the
roots that are trusted. The token needs service:write on them; the agent signs a
certificate if it has none yet.

  ✓  good
  ✗  cannot be had, or close to its end: less than 8 % of its life is left, which
     the agent renews at 90 % at the latest; a root with less than 30 days left

The exit code is 1 if one is not good. With -o json there is one object: certificates, a
list of service, id, not_before, not_after, days_left, roots (name, not_after, days_left,
signed, result), result (passed, failed), error.`,
		Example: `  meshlite certs
  meshlite certs catalog
  meshlite certs -o json | jq -r '.certificates[] | select(.result == "failed") | .service'`,
		ValidArgsFunction: completeService(&o.Agent, math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Services, o.Format = args, outputOf(cmd)
			return cli.Certs(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	return cmd
}
