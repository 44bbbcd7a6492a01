// Package resolver is the gRPC resolver for targets of the form
//
//	consul://[agent-host:port]/service[?tag=...&dc=...&near=...&policy=...]
//
// It watches the instances of the service and tells gRPC of every change. What
// Consul told last stays in force while Consul cannot be asked, and an answer
// without instances is believed only after a grace time: an agent that was
// restarted empty knows nothing for a heartbeat or two.
//
// With plain grpc-go it is used like this; the policy is least request, if its
// package is imported, and gRPC's round robin otherwise:
//
//	directory, err := consul.New(consul.Config{})
//	options := append(resolver.DialOptions(directory), grpc.WithTransportCredentials(creds))
//	conn, err := grpc.NewClient("consul:///catalog", options...)
//
// Channels that share a [Builder] and ask the same question share one watch.
package resolver
