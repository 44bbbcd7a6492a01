package main

import (
	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newCacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Show what the caches of processes save, and clear them",
		Long: `Show what the caches of processes save, and clear them. Processes are found in Consul:
the instances that publish their admin page (metrics_address), 64 at most, 2 s for
each. A program that is no server is in no directory: name its admin page by --client.
On a port of 127.0.0.1, which is what servers choose by themselves, only those of this
host can be asked.`,
		Example: `  meshlite cache stats
  meshlite cache clear --tag sweets`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheStatsCommand(), newCacheClearCommand())
	return cmd
}

func newCacheStatsCommand() *cobra.Command {
	var o cli.CacheStatsOptions
	cmd := &cobra.Command{
		Use:   "stats [SERVICE]",
		Short: "Show what caches save, for each process and method",
		Long: `Show what the caches of SERVICE's own processes save, or of all processes in Consul: for
each method the hit ratio, since the start and in the last 1, 5 and 15 minutes, the number
of calls, how many of them were coalesced or served stale, how many bypassed the cache, and
the entries. In shadow mode nothing is served: it shows how many calls each ttl would have
served, and how many of these with an outdated answer.

With --index, the most requested entries are listed, 50 at most for each cache, without
their requests and callers.

With -o json there is one object: processes, a list of id, address (of the admin page),
error (why it could not be asked), caches, a list of name (runtime, or the target or
service that was first given it), entries, bytes, max_bytes, hits, misses, coalesced,
stale, bypassed, shadow_hits, shadow_stale, stored, refreshed, refreshes_failed,
ignored_directives (of callers that are not trusted), evicted, invalidations, store_hits,
store_errors, store_losses (invalidations may have been missed), methods, a list of method
("" is all those beyond the first 4096), entries, bytes, the same counts from hits to
ignored_directives, last_minute, last_5_minutes, last_15_minutes (each with served and
calls), shadow, a list of up_to_seconds (0 is any age), compared, changed. With --index
each cache has index, if it keeps anything, a list of method, id (a fingerprint), code,
bytes, age_seconds, left_seconds (negative is past), etag.`,
		Example: `  meshlite cache stats
  meshlite cache stats storefront --index
  meshlite cache stats --client 127.0.0.1:9090
  meshlite cache stats -o json | jq '.processes[].caches[].methods[] | select(.last_5_minutes.calls > 0) | {method, rate: (.last_5_minutes | .served / .calls)}'`,
		Args:              atMostService("cache stats"),
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = firstOf(args), outputOf(cmd)
			return cli.CacheStats(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addProcesses(cmd, &o.ProcessesOptions)
	cmd.Flags().BoolVar(&o.Index, "index", false, "also list the most requested entries")
	return cmd
}

func newCacheClearCommand() *cobra.Command {
	var o cli.CacheClearOptions
	cmd := &cobra.Command{
		Use:   "clear [SERVICE]",
		Short: "Drop what caches keep of methods, of tags, or all of it",
		Long: `Clear the caches of SERVICE's own processes, or of all processes in Consul: the answers
of a method, those with a tag, or all. Loads in flight are not stored either. Processes
that share a store follow. Later calls go to the server; concurrent identical requests are
coalesced.

It prints the result of each process, and fails unless all succeeded; clearing again is
safe.

With -o json there is one object: processes, a list of id, address (of the admin page),
error (why it could not be asked), caches, a list of name (as in stats), entries (about how
many were cleared; left out with --tag, where they are not counted), unknown_methods (without
a call yet), error (why the invalidation was not published).`,
		Example: `  meshlite cache clear catalog --method sweetshop.catalog.v1.CatalogService/GetSweet
  meshlite cache clear --tag sweets --tag sweet:fudge
  meshlite cache clear --all --client 127.0.0.1:9090
  meshlite cache clear --all -o json | jq -r '.processes[] | select(.error) | .address'`,
		Args:              atMostService("cache clear"),
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = firstOf(args), outputOf(cmd)
			return cli.CacheClear(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addProcesses(cmd, &o.ProcessesOptions)
	f := cmd.Flags()
	f.StringArrayVar(&o.Methods, "method", nil, "answers of this `method`, package.Service/Method; repeats")
	f.StringArrayVar(&o.Tags, "tag", nil, "answers that carry this `tag` of a cache rule; repeats")
	f.BoolVar(&o.All, "all", false, "all answers")
	noCompletion(cmd, "method", "tag")
	return cmd
}

// addProcesses adds the flags that select processes.
func addProcesses(cmd *cobra.Command, o *cli.ProcessesOptions) {
	addAgent(cmd, &o.Agent)
	cmd.Flags().StringArrayVar(&o.Datacenters, "dc", nil, "`datacenter` to ask about, instead of the agent's own; repeats")
	noCompletion(cmd, "dc")
	addPages(cmd, &o.Clients, &o.Pages)
}

// addPages adds the flags that name admin pages and open them.
func addPages(cmd *cobra.Command, clients *[]string, o *cli.PageAccess) {
	f := cmd.Flags()
	f.StringArrayVar(clients, "client", nil, "`address` of an admin page, host:port or https://host:port, instead of those in Consul; repeats")
	f.StringArrayVar(&o.SendTokenTo, "send-token-to", nil, "`network` or address, such as 10.0.0.0/8, whose pages in Consul receive MESHLITE_ADMIN_TOKEN, too, unencrypted; repeats")
	f.StringVar(&o.Security.CACert, "cacert", "", "PEM `file` of the authorities to trust, instead of the system's; with --client https://")
	f.StringVar(&o.Security.Cert, "cert", "", "PEM `file` of the certificate to show; with --client https://")
	f.StringVar(&o.Security.Key, "key", "", "PEM `file` of its private key")
	f.StringVar(&o.Security.Identity, "identity", "", "call pages by HTTPS as this `service`, with its certificate of Consul's CA: those in Consul, or --client https:// of the service --servername")
	f.StringVar(&o.Security.ServerName, "servername", "", "`name` that the pages must prove, instead of the address's; with --client https://")
	noCompletion(cmd, "client", "send-token-to", "identity", "servername")
}

// noCompletion turns off the completion of file names.
func noCompletion(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			panic(err) // the flag was added before
		}
	}
}

// atMostService is for commands that take SERVICE or nothing.
func atMostService(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return cli.Usagef("%s takes SERVICE or nothing, not %d arguments: `meshlite services` lists what there is", command, len(args))
		}
		return nil
	}
}

// firstOf is the first of args, or nothing.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
