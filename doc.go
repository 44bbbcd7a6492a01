// Package meshlite is a service mesh that is imported instead of run: services
// register in Consul, clients find them and pick an instance for every call, and
// interceptors cache, limit, measure and protect each call. There is no sidecar,
// no proxy in the path and no control plane.
//
// A server is a gRPC server that registers itself:
//
//	server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext())
//	catalogv1.RegisterCatalogServiceServer(server, impl)
//	err = server.Run(ctx)
//
// A client is a *grpc.ClientConn:
//
//	conn, err := meshlite.NewClient("consul:///catalog", meshlite.WithPlaintext())
//	catalog := catalogv1.NewCatalogServiceClient(conn)
//
// The agent is found by the CONSUL_* environment; MESHLITE_* sets what else differs
// between places, and turns single concerns off: see docs/settings.md. What a method
// gets besides its handler (cache, limit, timeout, retry) is written in its contract, as
// options of package meshlite.policy.v1, and changed by [WithPolicy].
//
// Every part works alone with plain grpc-go: the resolver, each policy of
// picking, each interceptor. This package only wires them.
package meshlite
