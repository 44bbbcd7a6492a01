package gatewaycmd

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshlite-go/meshlite/internal/cli"
)

// Command is the command. Its output is for people unless the flag "output" that the root has
// is "json".
func Command() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "gateway [SERVICE[=NAME,...]...] [--http NAME=/PREFIX/[,URL...]...]",
		Short: "Serve services of the mesh over HTTP, until ctrl-C",
		Long: `Serve gRPC services of the mesh as JSON over HTTP, and plain HTTP services, through one
door with limits, caching and load balancing, until ctrl-C or SIGTERM.

SERVICE is a name in Consul. All that it offers is let out, but gRPC's own services;
=pkg.Service,pkg.Other/Method lets out these alone. Its contract comes by reflection, or from
--descriptors, and is read again when instances change: a new method needs no restart. A method
is called by its google.api.http rule or, without one, by POST /pkg.Service/Method.
/openapi.json describes all of it, and / is a page to read it and try it.

--http balances a plain HTTP/1.1 service: web=/web/ is the service web in Consul, and
web=/web/,http://127.0.0.1:8000,http://127.0.0.1:8001 a fixed list. The prefix is stripped.

Callers are identified by their address. Behind NGINX, HAProxy or another proxy, --trusted-proxies
names whom to believe in X-Forwarded-For. With --jwt-jwks, bearer tokens are verified; with
--client-ca, certificates of clients.

With --identity gateway, the gateway calls gRPC services by mutual TLS as itself. They identify its
users by the subject that it forwards, if their caller.WithTrustedIdentities names it.

--limit KEY=COUNT/PERIOD[@PATH] refuses what is more with 429: address=100/1m for each
address, subject=1000/h for each subject, 'header X-Api-Key=5/s@/v1/' for each key and the
paths below /v1/. Each gateway counts by itself.

What differs between places can be set by the environment instead: MESHLITE_LISTEN_ADDRESS,
MESHLITE_METRICS_ADDRESS, MESHLITE_REGION, MESHLITE_ZONE and MESHLITE_LOG_LEVEL. Flags win.

With -o json there is one object once it serves: address (a URL), metrics_address, services
(a list of name, lets_out), sites (a list of name, prefix, urls).`,
		Example: `  meshlite gateway --plaintext catalog
  meshlite gateway --plaintext catalog storefront=sweetshop.storefront.v1.StorefrontService --http web=/web/
  meshlite gateway --http web=/,http://127.0.0.1:8000,http://127.0.0.1:8001
  meshlite gateway catalog --listen :443 --tls-cert cert.pem --tls-key key.pem --limit address=100/1m --register`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Services = args
			if err := o.environment(cmd.Flags().Changed); err != nil {
				return err
			}
			if output := cmd.Flag("output"); output != nil {
				o.Format = cli.Format(output.Value.String())
			}
			return Run(cmd.Context(), o, cli.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		},
	}
	o.addFlags(cmd)
	return cmd
}

func (o *Options) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.HTTP, "http", nil, "serve plain HTTP under a prefix: `NAME=/PREFIX/[,URL...]`; repeats")
	f.StringVar(&o.HTTPPolicy, "http-policy", "", "`policy` for plain HTTP: least_request, the default, peak_ewma, or round_robin, that of fixed lists")
	f.Uint64Var(&o.HTTPCache, "http-cache", 64<<20, "`bytes` of answers to keep for each plain HTTP service, as these allow (RFC 9111); 0 is none")
	f.StringArrayVar(&o.Descriptors, "descriptors", nil, "`SERVICE=FILE` with its descriptor set, as buf build -o writes it, instead of reflection; repeats")
	f.StringVar(&o.Agent, "http-addr", "", "`address` of the Consul agent, host:port, instead of that of CONSUL_HTTP_ADDR")

	f.StringVar(&o.Listen, "listen", "127.0.0.1:8080", "`address` to serve at, host:port; port 0 takes a free one")
	f.StringVar(&o.TLSCert, "tls-cert", "", "PEM `file` of the certificate to serve TLS with; without it there is none")
	f.StringVar(&o.TLSKey, "tls-key", "", "PEM `file` of its private key")
	f.StringVar(&o.ClientCA, "client-ca", "", "PEM `file` of the authorities of clients: a certificate that they have signed is a subject")
	f.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:0", "serve /metrics, /healthz and /debug/meshlite at `host:port`; empty is nowhere")

	f.StringSliceVar(&o.TrustedProxies, "trusted-proxies", nil, "`networks` of proxies to believe in X-Forwarded-For, such as 10.0.0.0/8")
	f.StringArrayVar(&o.Limits, "limit", nil, "`KEY=COUNT/PERIOD[@PATH]`, such as address=100/1m; repeats")
	f.StringSliceVar(&o.CORSOrigins, "cors-origin", nil, "`origins` whose scripts may call, such as https://shop.example")
	f.StringVar(&o.JWKS, "jwt-jwks", "", "`file or URL` of the keys that verify bearer tokens")
	f.StringVar(&o.JWTIssuer, "jwt-issuer", "", "`issuer` that a token must name")
	f.StringVar(&o.JWTAudience, "jwt-audience", "", "`audience` that a token must name")
	f.BoolVar(&o.RequireSubject, "require-subject", false, "answer 401 to callers without a token or certificate")
	f.StringSliceVar(&o.Headers, "forward-header", nil, "request `headers` that gRPC services get as metadata")
	f.BoolVar(&o.ShowInternal, "show-internal", false, "show callers the texts of UNKNOWN and INTERNAL errors")

	f.BoolVar(&o.Register, "register", false, "register in Consul, with a check that the gateway renews while it is ready")
	f.StringVar(&o.Name, "name", "gateway", "`name` to register as")
	f.StringVar(&o.Advertise, "advertise", "", "`address` to register, host:port, instead of the one that is listened on")
	f.DurationVar(&o.Drain, "drain", time.Second, "accept requests for so long after SIGTERM, while others notice")
	f.DurationVar(&o.StopTimeout, "stop-timeout", 10*time.Second, "let running requests end for so long after that")

	f.BoolVar(&o.Backends.Plaintext, "plaintext", false, "call gRPC services without TLS")
	f.StringVar(&o.Backends.CACert, "cacert", "", "PEM `file` of the authorities of gRPC services, instead of the system's")
	f.StringVar(&o.Backends.Cert, "cert", "", "PEM `file` of the certificate to show to gRPC services")
	f.StringVar(&o.Backends.Key, "key", "", "PEM `file` of its private key")
	f.StringVar(&o.Backends.Identity, "identity", "", "call gRPC services as this `service`, by a certificate of Consul's CA, and verify them by their SPIFFE ids: mutual TLS 1.3")
	f.StringVar(&o.Backends.ServerName, "servername", "", "`name` that gRPC services must prove, instead of their own")
	if err := cmd.RegisterFlagCompletionFunc("http-policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was added above
	}
	for _, flag := range []string{"http", "http-cache", "descriptors", "http-addr", "listen", "metrics-address", "trusted-proxies", "limit", "cors-origin", "jwt-issuer", "jwt-audience", "forward-header", "name", "advertise", "drain", "stop-timeout", "identity", "servername"} {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			panic(err) // the flag was added above
		}
	}
}
