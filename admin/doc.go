// Package admin is one HTTP handler for whoever looks after a process: its
// metrics, its health, its profiles, and what each part says of itself.
//
//	handler, err := admin.New(admin.WithGatherer(registry), admin.WithHealth(healthy))
//	listener, err := net.Listen("tcp", "127.0.0.1:0")
//	server := admin.Serve(listener, handler)
//	defer server.Close()
//
// It has no authentication: serve it on loopback, or where only the operator can
// reach it, and the profiles of net/http/pprof on loopback only. Only GET and HEAD are
// answered. [http.DefaultServeMux] is not served.
package admin
