// Package resolver is the gRPC resolver for targets of the form
//
//	consul://[agent-host:port]/service[?tag=...&dc=...&near=...&filter=...&consistency=...&policy=...]
//
// It watches the instances of a service in a directory and publishes every change to
// gRPC. With plain grpc-go it is used like this:
//
//	directory, err := consul.New(consul.Config{})
//	options := append(resolver.DialOptions(directory), grpc.WithTransportCredentials(creds))
//	conn, err := grpc.NewClient("consul:///catalog", options...)
//
// The policy is least request if its package is imported, and gRPC's round robin
// otherwise. Channels of one [Builder] that send the same query share one watch.
//
// # Which answers are believed
//
// A directory can be wrong. An agent that has restarted is empty until the services
// register again, servers may lag behind or disagree, and one broken check marks
// every instance critical. So an answer is not published as it is. Each watch has a list
// of believed instances, which changes by these rules:
//
//   - New and changed instances are believed at once.
//   - Removals are believed at once only up to a share of the list ([WithMaxRemoval],
//     half by default), in one answer or in several within the grace time ([WithGrace],
//     15 s). The others are held: they stay in the list until they have been missing for
//     the grace time, or come back. An empty answer removes nothing at once. Policies do not
//     pick a held instance whose connection is broken, so holding one costs little.
//   - An error of the directory removes nothing, however long the outage lasts. The first
//     answer after it removes nothing at once, and the grace time of what was held already
//     starts anew. It does so three times at most, so that a directory which fails between
//     any two answers cannot keep an instance for ever.
//   - A directory's health is advice. While fewer than a share of the instances are healthy
//     ([WithPanicThreshold], 0.3), those that fail their checks are called as well: Envoy's
//     panic threshold. Instances in maintenance are not, unless [WithMaintenance] says so.
//   - Until the first answer, an earlier list serves: the one that another watch has of the
//     same query, or had within the last hour, else the snapshot on disk ([WithSnapshots]).
//     It stays in use if the directory fails. If the first answer is empty, the
//     earlier list is held for the grace time; any other answer replaces it.
//
// Without an earlier list calls wait for the first answer for 5 s ([WithStartTimeout]) and
// then fail with Unavailable.
//
// A target with several datacenters has a watch for each. The first one that has
// instances serves. One that fails keeps its last list for the grace time; then the next
// one is taken. If none is left, the last list of a failing one serves without limit; and if
// no list has a healthy instance, the unhealthy ones of the first datacenter that has some.
//
// # Which endpoints a channel connects to
//
// A channel connects to a subset of the list ([WithSubset], 100 endpoints), chosen by
// rendezvous hashing with a seed of the process, so that one change of the list changes the
// subset by one endpoint. Where a policy of this module reports which endpoints can be
// reached, those that cannot are exchanged for the next ones: a tenth of the subset a second
// at most, or at once while fewer than three can be reached.
package resolver
