package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/demo"
	"github.com/meshlite-go/meshlite/internal/shop"
)

func newDevCommand() *cobra.Command {
	o := shop.DevOptions{Command: commandName(os.Args[0])}
	var registry string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Keep a registry and the sweet shop open to play with, until ctrl-C",
		Long: `Start a registry and the sweet shop as real processes on free ports of loopback
(2 catalogs, 2 inventories, a storefront, all with reflection, and a gateway in front of
them), print where they are and what to type, and keep them open until ctrl-C or SIGTERM. A process that ends by
itself is reported and not restarted: kill one and see what happens.

Customers call the storefront some eight times a second, so that top, limits, cache stats
and endpoints --picks have something to show; --quiet leaves them out.

The registry is the consul on PATH, else the one that ` + "`make consul`" + ` has built, else
the embedded stand-in; --registry forces one.`,
		Example: `  meshlite dev
  meshlite dev --quiet
  meshlite dev --registry embedded -o json`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Registry, err = shop.ParseChoice(registry); err != nil {
				return cli.Usagef("--%w", err)
			}
			ctx, done := beforeStarting(cmd.Context())
			defer done()
			o.Out, o.Progress = cmd.OutOrStdout(), cmd.ErrOrStderr()
			o.JSON = outputOf(cmd) == cli.JSON
			if !quiet {
				o.Customers = demo.Customers
			}
			return shop.Dev(ctx, o)
		},
	}
	addRegistry(cmd, &registry)
	addShopIdentity(cmd, &o.Identity)
	cmd.Flags().BoolVar(&quiet, "quiet", false, "without customers: only you call")
	return cmd
}

func addShopIdentity(cmd *cobra.Command, identity *bool) {
	cmd.Flags().BoolVar(identity, "identity", false, "mutual TLS by Consul's CA, and intentions, between all programs: on a real Consul")
}

func addRegistry(cmd *cobra.Command, registry *string) {
	cmd.Flags().StringVar(registry, "registry", "auto", "`which` one to use: auto, consul or embedded")
	choices := cobra.FixedCompletions([]cobra.Completion{"auto", "consul", "embedded"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("registry", choices); err != nil {
		panic(err) // the flag was added above
	}
}

// beforeStarting prepares for a registry and processes of our own. They must not inherit
// the variables of another Consul; SIGHUP stops us; and neither a second ctrl-C nor a
// closed pipe may end us before our processes have ended, which takes seconds.
func beforeStarting(ctx context.Context) (_ context.Context, done func()) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CONSUL_") {
			_ = os.Unsetenv(name) // fails for names that no environment has
		}
	}
	held := make(chan os.Signal, 1)
	signal.Notify(held, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	stop := func() {}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup makes it
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	return ctx, func() { stop(); signal.Stop(held) }
}

// commandName is how to call this program from the shell that called it.
func commandName(arg string) string {
	if filepath.Base(arg) == arg {
		return arg
	}
	if strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
