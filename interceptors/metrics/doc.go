// Package metrics counts and times calls with Prometheus, under the names of
// go-grpc-middleware: grpc_server_started_total, grpc_server_handled_total,
// grpc_server_handling_seconds and their grpc_client twins, with what it lacks: calls
// in flight, sizes of messages, who is responsible for a failure (code_class), attempts beside
// calls, handlers alone, native histograms, exemplars.
//
//	measured, err := metrics.New(metrics.WithRegisterer(registry))
//	chain, err := interceptors.Chain(interceptors.Server, policies, measured, measured.Handlers())
//	server := grpc.NewServer(chain.ServerOptions()...)
//
// The dashboards and alerts written for go-grpc-middleware work unchanged. Its
// own implementation is not used: it looks up labels by name several times a
// call, counts a stream that is read past its end twice and one that is
// abandoned or ends in a panic never, and has no calls in flight. Here the
// series of a method are looked up once, and started = handled + in flight holds
// whatever happens to a call. A call allocates nothing, unless it is sampled and
// leaves an exemplar.
//
// Methods of contracts that the program is linked with are counted by name. So are the
// first 256 others that it serves or calls. The rest is "other", and so are methods that
// only a grpc.UnknownServiceHandler receives, which a peer can make up: without such a
// handler no interceptor sees them. No label has a peer, except for callers whose certificates
// are verified: meshlite_caller_requests_total counts the first 100 services that call by
// name, and the rest as "other".
//
// The counters of a method exist from [Metrics.Serves] on, or from its first call, with
// every code: rate() sees the first failure.
//
// deploy/prometheus/METRICS.md lists all metrics, and which codes are in which class.
package metrics
