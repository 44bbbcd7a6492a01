// Package authz decides which services may call this one, by Consul's intentions, in the
// process: no handler runs and no cached answer is read for a call that they deny.
//
//	authorized, err := authz.New("catalog", authz.WithWatcher(directory)) // a *consul.Directory
//	defer authorized.Close()
//	server, err := meshlite.NewServer("catalog", meshlite.WithInterceptors(authorized), meshlite.WithTLS(settings))
//
// [WithPolicy] decides by the intentions of policies instead, for servers without Consul:
// those of contracts, Go options and operators. Servers of package meshlite do so by themselves.
// Several authorizers in one chain must all allow a call.
//
// A caller is the service that its verified certificate names, by a SPIFFE id as Consul's CA
// issues it; metadata is never asked. One without such a certificate is denied. An intention
// whose source is a whole SPIFFE id allows one in another form. Permissions see a subject that
// is forwarded only from peers that [WithCallers] trusts. How intentions
// are ordered, and what becomes of those that are not understood, is in package intention.
//
// Until intentions were read, all calls are denied. While the directory cannot be reached,
// the last ones decide. A change applies to the next call of an open connection, and within a
// second to open streams: the context of one that is denied now is cancelled, and the stream
// ends with PERMISSION_DENIED although its handler may still run. Unary calls that run are
// not interrupted.
//
// The caller receives PERMISSION_DENIED and nothing else. The log has its identity, the rule
// and the method, of up to ten denials a second. [WithObserver] receives an [*Event] for each
// call, with the fields of gRFC A59.
//
// The health service of gRPC answers everybody: Consul's agent, which checks it, has no
// identity. Reflection and channelz are like any other service.
//
// A decision takes some 150 ns and allocates nothing, but for the metadata that the
// permissions of its source and method are about.
package authz
