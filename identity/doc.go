// Package identity secures connections between the services of a mesh by mutual TLS 1.3,
// with certificates that say which service they are of, as Consul's CA and SPIFFE have them.
//
// A [Source] publishes the certificates of a process: of Consul's CA by the Identity method
// of a directory of package resolver/consul (through an agent) or by package consulca (at the
// servers), of SPIRE by package spire, or of PEM files by [Files]. [Credentials] are
// gRPC credentials of such a source, the same value for servers and clients:
//
//	mtls, err := identity.New(directory.Identity("storefront"))
//	common := meshlite.Options{meshlite.WithTransportCredentials(mtls)}
//	server, err := meshlite.NewServer("storefront", common)
//	conn, err := meshlite.NewClient("consul:///catalog", common)
//
// # Who is verified
//
// A client verifies that the server is the service that it calls: the service of a consul
// target, or else the authority of the channel, in its own trust domain, partition and
// namespace, and in the datacenter of the target, its own if the target names none; or it has
// the id that [WithServerIDs] sets for the service. A server verifies that
// its client is a service of its own trust domain; which of them may call what is decided by
// authorization. The verified SPIFFE id is the identity of package caller.
//
// Either end refuses the other before a byte of a call, for a [Reason] that is in the error,
// the log and the [Stats].
//
// # Rotation
//
// Certificates change with the next handshake. A client replaces a connection before one of
// its two certificates ends, or when the authority behind it is no longer trusted: new calls
// take a new connection, and running ones end on the old one. Either end closes what is left
// when a certificate has ended, or a minute after the authority was withdrawn.
package identity
