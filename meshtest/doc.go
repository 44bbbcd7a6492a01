// Package meshtest runs servers and clients of a mesh in one process, for tests, as
// net/http/httptest does for HTTP. There is no Consul and no socket: the directory is a
// [consultest.Server], the network is in memory.
//
//	mesh := meshtest.New(t)
//	mesh.Serve("catalog", func(s grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServiceServer(s, impl) })
//	catalog := catalogv1.NewCatalogServiceClient(mesh.Client("catalog"))
//	response, err := catalog.GetSweet(t.Context(), request)
//
// Everything else is real: registration and discovery, health checks, balancing, the
// interceptors, HTTP/2, TLS if an option asks for it. [Mesh.Serve] and [Mesh.Client] take
// the program's own options. Each instance has a host, a runtime and an address of its own,
// as a process would; all clients share one runtime. The end of the test closes everything.
//
// # Faults
//
// An [Instance] can be slow, fail with a code, stall, be killed, or leave in order; a further
// [Mesh.Serve] is one that comes. Faults of the directory are those of package consultest:
//
//	instance.Fail(codes.Unavailable)                    // until instance.Heal
//	mesh.Agent.SetReachable(false)                      // the agent is away
//	defer mesh.Agent.Inject(consultest.NoLeader())()    // it answers errors
//
// # Virtual time
//
// In a bubble of testing/synctest, hours take no time, and synctest.Wait waits until every
// channel has seen the last change:
//
//	synctest.Test(t, func(t *testing.T) {
//		mesh := meshtest.New(t)
//		... // a first call, whose answer is cached for a minute
//		time.Sleep(time.Minute)
//		... // the next call reaches the handler again
//	})
//
// Make the mesh, and all that uses it, inside the bubble. Its clock begins in the year 2000:
// certificates must be valid then.
package meshtest
