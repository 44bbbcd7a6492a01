// Package resolver is the gRPC resolver for targets of the form
//
//	consul://[agent-host:port]/service[?tag=...&dc=...&near=...&filter=...&consistency=...&policy=...]
//
// It watches the instances of the service and tells gRPC of every change. What
// the directory told last stays in force while it cannot be asked. An answer that
// has lost all instances, or most of them, is believed only after a grace time: an
// agent that was restarted empty knows nothing for a heartbeat or two. Where too few
// instances are healthy, the others are called, too. Of many endpoints a channel connects
// to a part.
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
