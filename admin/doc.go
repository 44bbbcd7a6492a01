// Package admin is one HTTP handler for the operator of a process: its metrics, its
// health, its profiles, and the statistics of each part.
//
//	handler, err := admin.New(admin.WithGatherer(registry), admin.WithHealth(healthy))
//	listener, err := net.Listen("tcp", "127.0.0.1:0")
//	server := admin.Serve(listener, handler)
//	defer server.Close()
//
// Pages answer GET and HEAD and change nothing. Actions ([WithAction]) answer POST below
// /debug/meshlite/, take their values as a form of up to 64 KiB, and require their name in
// a header:
//
//	curl -H 'Meshlite-Action: cache/clear' -d all=true http://127.0.0.1:9090/debug/meshlite/cache/clear
//
// So no page in a browser can run an action: a request with an Origin or Sec-Fetch-Site is
// refused. 403, 413 and 415 are requests that were not read, 400 is an action that failed;
// the body has the reason.
//
// Pages require a Host that is an IP address, localhost or one of [WithHosts]: else a page
// in a browser could read them by DNS rebinding. /metrics, /healthz and /readyz take any
// Host, since Prometheus and load balancers have names of their own for them.
//
// /healthz is a liveness probe: restart the process if it fails. /readyz is a readiness
// probe: 503 while the process warms up or stops.
//
// All pages but /metrics, /healthz and /readyz want a bearer token ([WithToken],
// [WithTokenFile]) or the verified certificate of one of [WithIdentities]: 401 is a request
// without, 403 one with another. Without these options they are for loopback alone, and 403
// to others. A request is from loopback if both ends of its connection are, its Host is, and
// no header or version is that of a proxy; one over a Unix socket is, too. A handler that is
// called with no connection refuses.
//
// A proxy that hides itself makes callers local: before such pages set a token, which
// loopback needs, too, or set up the proxy to add X-Forwarded-For, which NGINX does not do by
// itself. [WithOpenLoopback] leaves loopback open beside a token. A token is sent as it is,
// so use TLS or a network that you trust.
//
// Actions are served with the pages, so that an operator can run them on other hosts: an
// action must cost no more than a restart and reveal no more than the pages.
// [http.DefaultServeMux] is not served.
package admin
