// Package metrics counts and times calls with Prometheus, under the names of
// go-grpc-middleware: grpc_server_started_total, grpc_server_handled_total,
// grpc_server_handling_seconds and their grpc_client twins, and calls in flight.
//
//	measured, err := metrics.New(metrics.WithRegisterer(registry))
//	chain, err := interceptors.Chain(interceptors.Server, policies, measured)
//	server := grpc.NewServer(chain.ServerOptions()...)
//
// The dashboards and alerts written for go-grpc-middleware work unchanged. Its
// own implementation is not used: it looks up labels by name several times a
// call, counts a stream that is read past its end twice and one that is
// abandoned or ends in a panic never, and has no calls in flight. Here the
// series of a method are looked up once, and started = handled + in flight holds
// whatever happens to a call.
//
// Methods of contracts that the program is linked with are counted by name. Of
// others, which a peer can make up, the first 256 are; the rest is "other".
package metrics
