// Command gateway serves gRPC services of the mesh as JSON over HTTP, and plain HTTP services,
// through one door. It is `meshlite gateway` as a program of its own, and stops on SIGTERM or
// SIGINT. CONSUL_HTTP_ADDR names the Consul agent.
//
//	gateway --plaintext catalog --http web=/web/ --register
//
// It exits with 0 after an orderly stop, 1 when something failed, 2 when the command line is
// wrong, and 130 when it was interrupted before it served.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/gatewaycmd"
	"github.com/meshlite-go/meshlite/internal/heapfloor"
)

func main() {
	heapfloor.Set()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the gateway until ctx ends. It returns the exit code.
func run(ctx context.Context, args []string, out, err io.Writer) int {
	cmd := gatewaycmd.Command()
	format := cli.Text
	cmd.Flags().VarP(&format, "output", "o", "how to write what comes out: text or json")
	cmd.SilenceErrors, cmd.SilenceUsage = true, true // written below, in one line
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.Usagef("%w: see gateway --help", err) })
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(err)
	return cli.Report(ctx, cmd.ExecuteContext(ctx), err)
}
