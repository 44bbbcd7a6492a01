package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newIntentionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "intentions",
		Short: "Find out which intention decides about a call",
		Example: `  meshlite intentions check storefront catalog
  meshlite intentions check storefront catalog sweetshop.catalog.v1.CatalogService/GetSweet`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newIntentionsCheckCommand())
	return cmd
}

func newIntentionsCheckCommand() *cobra.Command {
	var o cli.IntentionsOptions
	cmd := &cobra.Command{
		Use:   "check SRC DST [METHOD]",
		Short: "Show which intention decides about the calls of SRC to DST",
		Long: `Show whether the service SRC may call the service DST, which intention or which of its
permissions decides, and what would decide without that intention. Intentions and
the default are read from Consul, and evaluated as servers evaluate them that have
an authorizer (package interceptors/authz). Lines with ! are intentions that are not
understood: they deny whom they match, or match nobody, for the reason given.

With --proto or --descriptor-set they are those that the contract's policy has about the
service of METHOD, and Consul is not asked. What a server's own policy or its operator
changes is not seen. SRC may be a whole SPIFFE id. Metadata x-meshlite-subject is taken
for that of a gateway which the server trusts.

METHOD is package.Service/Method. It is needed where an intention has permissions, which
may also depend on metadata: -H "key: value", as often as needed.

The exit code is 0 for a call that is denied, too. With -o json there is one object: source,
destination, method, allowed, rule, reason, without (allowed and rule; null where the
default decides), default, default_reason, refused (a list of texts), trust_domain.`,
		Example: `  meshlite intentions check storefront catalog
  meshlite intentions check storefront catalog sweetshop.catalog.v1.CatalogService/GetSweet -H 'tenant: a'
  meshlite intentions check storefront catalog -o json | jq .allowed
  meshlite intentions check storefront catalog sweetshop.catalog.v1.CatalogService/GetSweet --descriptor-set shop.binpb`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) > 3 {
				return cli.Usagef("intentions check takes SRC DST [METHOD], not %d arguments: `meshlite services` lists services", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Format, o.Source, o.Destination = outputOf(cmd), args[0], args[1]
			if len(args) == 3 {
				o.Method = args[2]
			}
			return cli.CheckIntentions(cmd.Context(), o, streamsOf(cmd))
		},
	}
	cmd.ValidArgsFunction = completeService(&o.Agent, 2)
	addAgent(cmd, &o.Agent)
	addContracts(cmd, &o.Contracts, "")
	cmd.Flags().StringArrayVarP(&o.Metadata, "metadata", "H", nil, "`key:value` of the call's metadata; repeat it for more")
	return cmd
}
