// Package admin is one HTTP handler for whoever looks after a process: its
// metrics, its health, its profiles, and what each part says of itself.
//
//	handler, err := admin.New(admin.WithGatherer(registry), admin.WithHealth(healthy))
//	listener, err := net.Listen("tcp", "127.0.0.1:0")
//	server := admin.Serve(listener, handler)
//	defer server.Close()
//
// Pages answer GET and HEAD and change nothing. What can be done ([WithAction]) answers
// POST below /debug/meshlite/, takes its values as a form of up to 64 KiB, and wants its
// name in a header:
//
//	curl -H 'Meshlite-Action: cache/clear' -d all=true http://127.0.0.1:9090/debug/meshlite/cache/clear
//
// So no page in a browser can ask for it: a request with an Origin or Sec-Fetch-Site is
// refused. 403, 413 and 415 are requests that were not read, 400 is an action that was not
// done; the text says why.
//
// All but /metrics, /healthz and /readyz, which Prometheus and load balancers call by names
// of their own, wants a Host that is an IP address, localhost or one of [WithHosts]: else a
// page in a browser could read it by DNS rebinding.
//
// /healthz is for whoever restarts processes, as a liveness probe; /readyz is for whoever
// sends them calls, as a readiness probe: 503 while the process warms up or stops.
//
// It has no authentication: serve it on loopback, or where only the operator can
// reach it, and the profiles of net/http/pprof on loopback only, since they reveal what is in
// memory. Actions are wherever the pages are, so that an operator can ask the processes of
// other hosts: let them cost no more than a restart would, and reveal nothing that pages do not.
// [http.DefaultServeMux] is not served.
package admin
