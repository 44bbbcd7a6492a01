// Package consulca is a certificate source of package identity that asks the servers of
// Consul themselves, over gRPC, and needs no agent: the service ConnectCAService, which signs a
// certificate request for a private key that never leaves the process.
//
//	servers, err := grpc.NewClient("dns:///consul-server:8503", grpc.WithTransportCredentials(...))
//	source, err := consulca.New(servers, consulca.Config{Service: "storefront", Datacenter: "dc1", Token: token})
//	mtls, err := identity.New(source)
//
// A leaf is renewed at 60 % to 90 % of its life, and within 30 s after another root has become the
// active one, so that processes do not come in step: Consul signs 50 leaves a second. While no
// server answers the last certificates stay.
package consulca
