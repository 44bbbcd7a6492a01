package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/reflectcall"
)

func newCallCommand() *cobra.Command {
	var o cli.CallOptions
	cmd := &cobra.Command{
		Use:        "call TARGET [METHOD]",
		SuggestFor: []string{"grpcurl", "invoke"},
		Short:      "Call a method by its contract, through meshlite's resolver and pickers",
		Long: `Call a unary or server-streaming method, without its generated code. The contract
comes from the server, by gRPC reflection, else from the files of --proto and
--descriptor-set; that of grpc.health.v1.Health is always known. Without METHOD the
services of the server are listed, and with package.Service its methods.

TARGET is consul:///SERVICE, which may say more, such as
consul://127.0.0.1:8500/catalog?tag=canary&policy=round_robin, or host:port, or any
other target of gRPC, such as dns:///host:port. METHOD is package.Service/Method.

The answer goes to stdout as JSON, the instance that gave it to stderr. With -n, a table
shows the calls and latencies of each instance, and another one the failures, with an
example for each code; -c sets how many run at once.

With -o json there is one object: instance, address, code, message, details,
duration_ms, response, header, trailer (for a stream, one object a line:
{"response": ...} for each message, and that object last). With -n: calls, failed,
duration_ms, codes, mean_ms, p50_ms, p95_ms, p99_ms, max_ms, instances, a list of
instance, address, calls, failed and these times, failures, a list of code, instance,
address, calls, example (an object as for one call). Without METHOD: services, a list
of names. With a service: service, methods, a list of method, request,
request_fields, response, client_streaming, server_streaming.

With --explain a tree follows: where the call went and why, what the server decided, and
whom its handler called in turn, through up to 8 servers. A server answers callers that
it trusts (RuntimeConfig.Callers of its program), and no others; from there on only the
client's side is shown. -o json has all of it as explanation, by package hop.

Every call goes to a server: the contract's cache, retry and timeout on the client
side are off. Connections are TLS with the system's roots unless --plaintext
is given.`,
		Example: `  meshlite call --plaintext consul:///catalog
  meshlite call --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService
  meshlite call --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet -d '{"id": "lemon-sherbet"}'
  meshlite call --plaintext 'consul:///catalog?policy=round_robin' sweetshop.catalog.v1.CatalogService/ListSections -n 1000 -c 10
  meshlite call --plaintext consul:///greet greet.v1.GreetService/Greet --proto proto/greet/v1/greet.proto
  meshlite call --plaintext --explain consul:///storefront sweetshop.storefront.v1.StorefrontService/Browse
  meshlite call --plaintext 127.0.0.1:8081 grpc.health.v1.Health/Check -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return cli.Usagef("call takes TARGET and perhaps METHOD, not %d arguments: write meshlite call consul:///service package.Service/Method", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Target, o.Method = args[0], firstOf(args[1:])
			o.LimitStream = cmd.Flags().Changed("timeout")
			o.Format = outputOf(cmd)
			return cli.Call(cmd.Context(), o, streamsOf(cmd))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Data, "data", "d", "{}", "the request as `JSON`, @file, or - to read it from stdin")
	f.StringArrayVarP(&o.Metadata, "metadata", "H", nil, "send metadata, `key:value`; repeats; base64 for a -bin key")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Second, "how long a call may take; a stream only when it is given")
	f.IntVarP(&o.Repeat, "repeat", "n", 1, "call `N` times, and count by instance")
	f.BoolVar(&o.Explain, "explain", false, "write after the answer what happened to the call at each hop, as far as servers are willing")
	f.IntVarP(&o.Callers, "concurrency", "c", 1, "let so many `callers` call at once; with -n")
	addContracts(cmd, &o.Contracts, ", for a server without reflection")
	addSecurity(cmd, &o.Security, "target")
	noCompletion(cmd, "data", "metadata", "timeout", "repeat", "concurrency")
	return cmd
}

// identityUsage is that of the flag of all commands that call servers.
const identityUsage = "call as this `service`, by a certificate of Consul's CA, and verify servers by their SPIFFE ids: mutual TLS 1.3"

// addSecurity adds the flags of a connection to a server. Without --servername the server proves
// the name in its target or address.
func addSecurity(cmd *cobra.Command, o *cli.Security, named string) {
	f := cmd.Flags()
	f.BoolVar(&o.Plaintext, "plaintext", false, "no TLS")
	f.StringVar(&o.CACert, "cacert", "", "PEM `file` of the authorities to trust, instead of the system's")
	f.StringVar(&o.Cert, "cert", "", "PEM `file` of the certificate to show")
	f.StringVar(&o.Key, "key", "", "PEM `file` of its private key")
	f.StringVar(&o.Identity, "identity", "", identityUsage)
	f.StringVar(&o.ServerName, "servername", "", "`name` that the server must prove, instead of the "+named+"'s")
	noCompletion(cmd, "identity", "servername")
}

// completeFiles offers files with these extensions for a flag.
func completeFiles(cmd *cobra.Command, flag string, extensions ...string) {
	if err := cmd.MarkFlagFilename(flag, extensions...); err != nil {
		panic(err) // the flag was added before
	}
}

// completeTarget offers the beginning of a target; a method is not known before
// the server is asked.
func completeTarget(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []cobra.Completion{"consul:///"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// addContracts adds the flags that name files with contracts.
func addContracts(cmd *cobra.Command, o *reflectcall.FileOptions, what string) {
	f := cmd.Flags()
	f.StringArrayVar(&o.Protos, "proto", nil, ".proto `file` with the contract"+what+"; repeats")
	f.StringArrayVarP(&o.ImportPaths, "proto-path", "I", nil, "`folder` where --proto files and their imports begin; repeats; without it, the folder above the package")
	f.StringArrayVar(&o.DescriptorSets, "descriptor-set", nil, "`file` with a descriptor set, as buf build -o writes it; repeats")
	completeFiles(cmd, "proto", "proto")
	completeFiles(cmd, "descriptor-set", "binpb", "pb", "bin", "protoset", "desc")
	if err := cmd.MarkFlagDirname("proto-path"); err != nil {
		panic(err) // the flag was added above
	}
}
