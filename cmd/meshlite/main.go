// Command meshlite is the tool of the mesh: it calls methods through meshlite's
// own resolver and pickers, runs a stand-in for a Consul agent, and shows how the
// parts work together.
//
//	meshlite dev
//	meshlite call --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet -d '{"id": "lemon-sherbet"}'
//
// It exits with 0 when all went well, 1 when something failed, 2 when the command
// line is wrong, and 130 when it was interrupted before it was done.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/heapfloor"
)

func main() {
	heapfloor.Set()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs the tool with the given streams and arguments. It returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, err io.Writer) int {
	root := newRootCommand(cli.Streams{In: in, Out: out, Err: err})
	root.SetArgs(args)
	return cli.Report(ctx, root.ExecuteContext(ctx), err)
}
