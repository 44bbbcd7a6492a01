package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/internal/nginx"
)

func newNginxCommand() *cobra.Command {
	var o cli.NginxOptions
	cmd := &cobra.Command{
		Use:   "nginx SERVICE --out FILE",
		Short: "Keep the servers of an NGINX upstream up to date, until ctrl-C",
		Long: `Write the instances of a service in Consul to a file that NGINX includes, and reload
NGINX when they change, until ctrl-C. SERVICE is a name, or a target as call takes it, such
as consul:///catalog?tag=canary. Weights are Consul's.

With --upstream the file holds a whole upstream of that name, without it only its server
lines, to include in an upstream of your own. The file is replaced in one step, only when
its text changes, and at most once in each --interval. A --check that fails puts the last
text back; a failed reload is tried again.

The answers of Consul are believed as clients believe them: an outage removes nothing, and a
list that shrinks by more than half at once does so after 15 s. An empty one leaves the
file as it is. Where no file is there yet, it holds one server that is down, so that NGINX
starts and answers 502.

Each change is a line. With -o json it is an object: time, event (written, kept: no
instance is left, refused: an instance whose address NGINX cannot be given, failed, recovered,
unavailable: Consul does not answer, available), file, instances (how many, of written), error.`,
		Example: `  meshlite nginx catalog --upstream catalog --out /etc/nginx/conf.d/catalog.conf --check 'nginx -t' --reload 'nginx -s reload'
  meshlite nginx catalog --out /etc/nginx/meshlite/catalog.servers --pid-file /run/nginx.pid
  meshlite nginx catalog --upstream catalog --balance least_conn --keepalive 32 --out catalog.conf --once`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("nginx takes SERVICE, not %d arguments: `meshlite services` lists what there is", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeService(&o.Agent, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Service, o.Format = args[0], outputOf(cmd)
			return cli.Nginx(cmd.Context(), o, streamsOf(cmd))
		},
	}
	addAgent(cmd, &o.Agent)
	f := cmd.Flags()
	f.StringVar(&o.File.Path, "out", "", "`file` to write")
	f.StringVar(&o.Block.Upstream, "upstream", "", "`name` of the upstream; without it only its server lines are written")
	f.StringVar(&o.Block.Balance, "balance", "", "`method` of the upstream: "+nginx.RoundRobin+", which is the default, or "+nginx.LeastConn)
	f.IntVar(&o.Block.Keepalive, "keepalive", 0, "idle `connections` that each worker keeps; 0 is none")
	f.StringVar(&o.Block.Server, "server", "", "`parameters` of each server, such as 'max_fails=1 fail_timeout=5s'")
	f.StringVar(&o.File.Check, "check", "", "`command` of the shell that fails if the configuration is wrong, such as 'nginx -t'")
	f.StringVar(&o.File.Reload, "reload", "", "`command` of the shell that reloads NGINX, such as 'nginx -s reload'")
	f.StringVar(&o.File.PIDFile, "pid-file", "", "`file` with the process id of NGINX, which is sent SIGHUP, instead of --reload")
	f.DurationVar(&o.Interval, "interval", time.Second, "least time between two reloads")
	f.BoolVar(&o.Once, "once", false, "write the first answer and end")
	f.StringArrayVar(&o.Tags, "tag", nil, "only instances that carry this `tag`; repeats")
	f.StringVar(&o.Datacenter, "dc", "", "`datacenter` to ask about, instead of the agent's own")
	f.BoolVar(&o.Warning, "warning", false, "also instances in warning state")
	noCompletion(cmd, "upstream", "keepalive", "server", "check", "reload", "interval", "tag", "dc")
	methods := cobra.FixedCompletions([]cobra.Completion{nginx.RoundRobin, nginx.LeastConn}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("balance", methods); err != nil {
		panic(err) // the flag was added above
	}
	return cmd
}
