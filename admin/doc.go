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
// It has no authentication: serve it on loopback, or where only the operator can
// reach it, and the profiles of net/http/pprof on loopback only, since they reveal what is in
// memory. Actions are served with the pages, so that an operator can run them on other
// hosts: an action must cost no more than a restart and reveal no more than the pages.
// [http.DefaultServeMux] is not served.
package admin
