package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newCallCommand() *cobra.Command {
	var o cli.CallOptions
	cmd := &cobra.Command{
		Use:   "call TARGET METHOD",
		Short: "Call a method by reflection, through meshlite's resolver and pickers",
		Long: `Call a unary or server-streaming method, without its generated code: the
contract comes from the server, by gRPC reflection.

TARGET is consul:///SERVICE, which may say more, such as
consul://127.0.0.1:8500/catalog?tag=canary&policy=round_robin, or host:port, or any
other target of gRPC, such as dns:///host:port. METHOD is package.Service/Method.

The answer goes to stdout as JSON, who gave it to stderr. With -n, a table shows how
the calls were spread over the instances. With -o json there is one object:
instance, address, code, message, duration_ms, response, header, trailer (for a
stream, one object a line: {"response": ...} for each message, and that object last).

Every call goes to a server: cache, retry and timeout that a contract asks of
clients are left out. Connections are TLS with the system's roots unless --plaintext
is given.`,
		Example: `  meshlite call --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet -d '{"id": "lemon-sherbet"}'
  meshlite call --plaintext 'consul:///catalog?policy=round_robin' sweetshop.catalog.v1.CatalogService/ListSections -n 100
  meshlite call --plaintext 127.0.0.1:8081 grpc.health.v1.Health/Check -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.Usagef("call takes TARGET and METHOD, not %d arguments: write meshlite call consul:///service package.Service/Method", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Target, o.Method = args[0], args[1]
			o.LimitStream = cmd.Flags().Changed("timeout")
			o.Format = outputOf(cmd)
			return cli.Call(cmd.Context(), o, streamsOf(cmd))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Data, "data", "d", "{}", "the request as `JSON`, @file, or - to read it from stdin")
	f.StringArrayVarP(&o.Metadata, "metadata", "H", nil, "send metadata, `key:value`; repeats; base64 for a -bin key")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Second, "how long a call may take; a stream only when it is given")
	f.IntVarP(&o.Repeat, "repeat", "n", 1, "call `N` times, one after the other, and count by instance")
	f.BoolVar(&o.Security.Plaintext, "plaintext", false, "no TLS")
	f.StringVar(&o.Security.CACert, "cacert", "", "PEM `file` of the authorities to trust, instead of the system's")
	f.StringVar(&o.Security.Cert, "cert", "", "PEM `file` of the certificate to show")
	f.StringVar(&o.Security.Key, "key", "", "PEM `file` of its private key")
	f.StringVar(&o.Security.ServerName, "servername", "", "`name` that the server must prove, instead of the target's")
	return cmd
}

// completeTarget offers the beginning of a target; a method is not known before
// the server is asked.
func completeTarget(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []cobra.Completion{"consul:///"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
