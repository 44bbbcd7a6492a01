// Package consultest is an in-process stand-in for a Consul agent, as
// [net/http/httptest] is for an HTTP server: it speaks Consul's HTTP API closely
// enough that Consul's own Go client and curl cannot tell.
//
// A [Server] is one agent and the one-server datacenter behind it: the agent's
// services and checks, the catalog, health with blocking queries, and the KV
// store. Reach it through [Server.Transport], which opens no socket and so works
// under virtual time in a [testing/synctest] bubble; through [Server.Listen],
// which serves on a TCP address; or as the [net/http.Handler] it is.
//
//	agent := consultest.New()
//	defer agent.Close()
//	err := agent.Register(consultest.Service{Name: "catalog", Port: 8080})
//	client := &http.Client{Transport: agent.Transport()}
//
// Tests steer it with [Server.Register], [Server.Deregister], [Server.SetStatus],
// [Server.SetReachable] and [Server.Restart], look at what clients asked with
// [Server.Queries], and answer in its stead with [Server.Intercept].
//
// It is not a Consul: it has one node, keeps everything in memory, and knows no
// sessions, intentions, Connect proxies, filter expressions, scripts or gossip.
// What it does not know it refuses, naming it. In a bubble, create the Server
// inside the bubble and give it [WithProbe] if services register checks that
// would open sockets.
package consultest
