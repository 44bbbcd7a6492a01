package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

func newExplainCommand() *cobra.Command {
	var o cli.ExplainOptions
	cmd := &cobra.Command{
		Use:        "explain TARGET METHOD",
		SuggestFor: []string{"why", "trace", "describe"},
		Short:      "Say where a call would go and why, without making it",
		Long: `Say what would happen to a call of METHOD to TARGET, and why, without making it: which
route takes it and why those before do not, the odds of each arm of its split, target and
failover, and of each endpoint what its client knows of it and the odds of the policy. Then
identities, intentions (as the agent has them), timeout, retries, what the cache has, what
is left of limits, and each field of the method's policy with the layer that has set it:
contract, program (an option in Go) or operator.

TARGET is consul:///service. With --client, a client answers by its own ejections, latencies
and shares: a program whose admin page is at that address, and that has a channel to TARGET.
It connects nothing; its page is read by HTTPS at https://host:port. Without --client, a channel
of this tool connects, and answers by what it sees in that moment; it takes the flags of
` + "`meshlite call`" + ` for TLS and contracts.

METHOD is package.Service/Method. -H sends metadata, which routes and policies match. -d is
the request: at most 32 KiB. The exit code is 0 also when the call would fail.

` + explainJSON,
		Example: `  meshlite explain --plaintext consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet
  meshlite explain consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet -H x-canary:yes --client 127.0.0.1:9090
  meshlite explain consul:///catalog sweetshop.catalog.v1.CatalogService/GetSweet --client 127.0.0.1:9090 -o json | jq '.routing.arms[] | {name, share}'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.Usagef("explain takes TARGET METHOD, not %d arguments: write meshlite explain consul:///service package.Service/Method", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Target, o.Method, o.Format = args[0], args[1], outputOf(cmd)
			return cli.Explain(cmd.Context(), o, streamsOf(cmd))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Client, "client", "", "`address` of a client's admin page, host:port or https://host:port, instead of a channel of this tool")
	f.StringVarP(&o.Data, "data", "d", "", "the request as `JSON`, @file, or - to read it from stdin")
	f.StringArrayVarP(&o.Metadata, "metadata", "H", nil, "metadata of the call, `key:value`; repeats; base64 for a -bin key")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Second, "how long connections may take")
	addContracts(cmd, &o.Contracts, ", for a server without reflection")
	addSecurity(cmd, &o.Security, "target")
	noCompletion(cmd, "data", "metadata", "timeout", "client")
	return cmd
}

// explainJSON documents what -o json writes.
const explainJSON = `With -o json there is one object: client (its address; empty for a channel of this tool),
target, channels (of the client to it), method, contract (known, kind, cacheable, retryable),
notes (texts: what is not explained, and why), timeout_ms (of the policy; 0 is none), retry:
attempts, codes, on_connect_failure, backoff_ms, max_backoff_ms, attempt_timeout_ms, budget,
budget_left, why (the rule does not apply); mirror (null without a rule): target, percent (of
such calls that are copied), compare, ignore, why (none is copied); cache, a list by destination: destination, state
(fresh, stale, expired, absent, bypass), why, key (a digest), of (what the key is made of),
age_ms, left_ms; limits, a list: name, limit, counted (here, in the store, on the server),
remaining, reset_ms, refused, retry_after_ms, waits, shadow, error; policy, a list: field,
value, layer, of (the part of the layer); identity (null without certificates of a mesh):
service, id, error, servers, a list of service, id (to be proven), error; intentions, a list
by service: destination, allowed, rule, reason, error; and routing: service, datacenter, index (of
the chain; 0 without one), error, fails (the call would fail with it), sticky (a metadata
key), stuck (the call has a value of it), idle (not connected: targets count as healthy),
routes, a list up to the one that matches: name, matches, reason; retry (attempts, codes,
on_connect_failure; null without); arms of that route, a list: name, timeout_ms, weight
(percent, in the chain), share (percent of such calls now), empty, targets, a
list of its own and then its failover: id, destination, name, connected, usable, known,
share, picked, succeeded, failed, failover, capacity (percent of its calls that it can take),
recovering, outlook: null without connections, or policy, hash_key, hashed (the call has a
value of it), panic, estimated (the odds are counted from draws), endpoints, a list of odds
(0 to 1), due (it gets one of the next calls, as a probe or the first of a slow start), and
what ` + "`meshlite endpoints --picks -o json`" + ` has of each.`
