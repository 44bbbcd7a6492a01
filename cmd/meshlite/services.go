package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newServicesCommand() *cobra.Command {
	var o cli.ServicesOptions
	cmd := &cobra.Command{
		Use:        "services",
		SuggestFor: []string{"list", "ls"},
		Short:      "List the services in Consul and how their instances are",
		Long: `List the services that are registered in Consul, and how many of their instances are
passing, warning and critical. Consul itself is left out. Where they cannot be read,
stderr says why.

With -o json there is one object: services, a list of name, tags (of all instances),
passing, warning, critical, error (why its instances cannot be read).`,
		Example: `  meshlite services
  meshlite services --dc dc2
  meshlite services -o json | jq -r '.services[] | select(.passing == 0) | .name'`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Format = outputOf(cmd)
			return cli.Services(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	cmd.Flags().StringVar(&o.Datacenter, "dc", "", "`datacenter` to ask about, instead of the agent's own")
	return cmd
}

// addAgent gives a command the flag that Consul's own command line has.
func addAgent(cmd *cobra.Command, agent *string) {
	cmd.Flags().StringVar(agent, "http-addr", "", "`address` of the Consul agent, host:port, instead of that of CONSUL_HTTP_ADDR")
}

// completeService offers the registered services of the agent that --http-addr names,
// for the first most arguments.
func completeService(agent *string, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.DeleteFunc(cli.ServiceNames(cmd.Context(), *agent), func(name string) bool { return slices.Contains(args, name) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
