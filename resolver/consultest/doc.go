// Package consultest simulates a Consul agent in the test's process, as
// [net/http/httptest] does an HTTP server. It implements Consul's HTTP API closely
// enough for Consul's own Go client and curl.
//
// A [Server] is one agent and the one-server datacenter behind it: the agent's
// services and checks, the catalog, health with blocking queries and filters, intentions,
// the config entries that route calls, the discovery chains that they make, and the KV
// store. Reach it through [Server.Transport], which opens no socket and so works
// under virtual time in a [testing/synctest] bubble; through [Server.Listen],
// which serves on a TCP address; or as the [net/http.Handler] it is.
//
//	agent := consultest.New()
//	defer agent.Close()
//	err := agent.Register(consultest.Service{Name: "catalog", Port: 8080})
//	client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent.Transport()}})
//	directory, err := consul.New(consul.Config{Transport: agent.Transport()}) // the mesh's own
//
// Tests steer it with [Server.Register], [Server.Deregister], [Server.SetStatus],
// [Server.Flap], [Server.SetIntentions], [Server.WriteConfig], [Server.SetReachable] and
// [Server.Restart], connect it to agents of other datacenters with [Server.Join], rotate its
// CA with [Server.RotateCA], inspect requests with [Server.Queries] and
// [Server.Connections], and answer in its place with [Server.Intercept].
//
// # Routes
//
// [Server.WriteConfig] takes what `consul config write` does: service-defaults, service-router,
// service-splitter, service-resolver and proxy-defaults. It refuses with Consul's texts what
// Consul refuses, by itself or because a chain would break, and [Server.DeleteConfig] does so,
// too. The chain of a service is at /v1/discovery-chain/, and /v1/health/service/ finds
// the instances of its subsets by ?filter. With [Server.Join] each agent has its own entries:
// nothing replicates them.
//
// # When Consul misbehaves
//
// A [Fault] is ordered with [Server.Inject], until it is lifted, or with
// [Server.Script], as one step of a sequence:
//
//	lift := agent.Inject(consultest.NoLeader())
//	defer lift()
//	done := agent.Script(consultest.Reset().Times(3), consultest.Pass(), consultest.Empty())
//
// It matches reads of health, which resolvers send, unless [Fault.On],
// [Fault.Service] and [Fault.When] aim it elsewhere. [Fault.Times] bounds it,
// [Fault.And] makes one of several:
//
//	consultest.Forbidden().On(consultest.Registrations).Times(2)
//	consultest.Empty().And(consultest.IndexBackwards()).Service("catalog")
//	consultest.NoLeader().On(consultest.ChainReads)
//
// The faults, with what a client sees and where it comes from:
//
//	IndexZero        X-Consul-Index: 0, at once                 bugs of Consul
//	IndexBackwards   lower indexes than before                  servers restored or started anew
//	IndexKept        another list, but the same index           with the faults below
//	Stale            an old answer that says so                 a server that lost its leader
//	Empty            an empty list                              mass deregistration; bugs of Consul
//	ACLFiltered      an empty list that says it was filtered    a token that lost its rights
//	Without          a share of the list is missing             agents on the other side of a partition
//	WithoutFirst     the first n entries are missing            the same
//	Duplicates       every entry twice                          one instance registered at two agents
//	Edit             anything
//	ServerError      any status with any text                   502 to 504 of a load balancer
//	NoLeader         500 "No cluster leader"                    an election
//	Forbidden        403 "ACL not found"                        a deleted token
//	Garbage          200 with HTML                              a captive portal; a wrong port
//	Delay            the answer comes late                      load
//	Hang             no answer                                  a stalled process
//	Reset            the connection breaks                      a killed process, a firewall
//	SlowBody         the header at once, the body in drips      a thin line
//	Truncate         the body breaks off                        a proxy that was stopped
//
// A blocking query that waits when a matching fault is injected is answered or reset at once.
// Faults that change lists raise the indexes when they are injected and lifted, as any
// change does, so that no client misses them, and queries block in between. With IndexZero
// and steps of a script they never block. [Server.Heal] lifts everything. Flap and SetReachable
// are not faults of answers but of the agent, and combine with all of the above.
//
// An outage of ten minutes takes no time in a bubble:
//
//	synctest.Test(t, func(t *testing.T) {
//		agent := consultest.New()
//		defer agent.Close()
//		... // a client over agent.Transport() has its first list
//		agent.SetReachable(false)
//		time.AfterFunc(10*time.Minute, func() { agent.SetReachable(true) })
//		... // and must keep it
//	})
//
// # What it is not
//
// It is not Consul: it has one node, keeps everything in memory, and has no
// sessions, Connect proxies, config entries but for routes and intentions, filters but of the health
// of a service, scripts or gossip.
// It rejects what it does not support, by name. In a bubble, create the Server
// inside the bubble and give it [WithProbe] if services register checks that
// would open sockets.
package consultest
