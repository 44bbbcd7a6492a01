package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/demo"
	"github.com/meshlite-go/meshlite/internal/shop"
)

func newDemoCommand() *cobra.Command {
	o := demo.Options{}
	var registry string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Double the traffic at a sweet shop, kill and restart, and measure what customers notice",
		Long: `Start a registry and a sweet shop of real processes on free ports (2 catalogs, 2
inventories, a storefront, a gateway), and send them an open-loop load of ordinary
customers, a third of them by JSON over HTTP through the gateway, and of one abusive
customer. After a third of the time the load doubles and a third
catalog and inventory join; after two thirds a catalog is killed with SIGKILL, and
then every inventory is restarted, one by one. At the end everything is stopped.

Exits with 0 only if no call of an ordinary customer failed, each instance had its
share, new replicas had calls within a second, the cache helped, and the abusive
customer got no more than the limit of the contract; and if a quarter of the calls or more
came through the gateway.

With -o json, one object goes to stdout, the progress and the table to stderr. Its calls,
failed, latencies (from a call's scheduled time) and phases are of ordinary customers;
refused are calls of the abusive one; gateway_calls are those that came through the gateway.

The registry is the consul on PATH, else the one that ` + "`make consul`" + ` has built, else
the embedded stand-in; --registry forces one.`,
		Example: `  meshlite demo
  meshlite demo --duration 1m --registry consul
  meshlite demo -o json 2>/dev/null | jq .phases`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Registry, err = shop.ParseChoice(registry); err != nil {
				return cli.Usagef("--%w", err)
			}
			if err := o.Check(); err != nil {
				return cli.Usagef("%w", err)
			}
			return runDemo(cmd, o)
		},
	}
	cmd.Flags().DurationVar(&o.Duration, "duration", demo.DefaultDuration, "how long the load lasts, about")
	addRegistry(cmd, &registry)
	addShopIdentity(cmd, &o.Identity)
	return cmd
}

// runDemo fails when a condition of the demo did not hold.
func runDemo(cmd *cobra.Command, o demo.Options) error {
	ctx, done := beforeStarting(cmd.Context())
	defer done()
	o.Progress = cmd.OutOrStdout()
	inJSON := outputOf(cmd) == cli.JSON
	if inJSON {
		o.Progress = cmd.ErrOrStderr()
	}
	result, err := demo.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := result.WriteTable(o.Progress); err != nil {
		return err
	}
	if inJSON {
		if err := result.WriteJSON(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	if broken := result.Broken(); len(broken) > 0 {
		return errors.New("the demo has failed: " + strings.Join(broken, "; "))
	}
	return nil
}
