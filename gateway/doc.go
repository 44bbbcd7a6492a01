// Package gateway is one HTTP door in front of the services of a mesh: JSON over HTTP to
// gRPC methods, without generated code, and plain HTTP services beside them.
//
//	directory, err := consul.New(consul.Config{})
//	catalog, err := gateway.Dial("consul:///catalog", directory, meshlite.WithPlaintext())
//	catalog.Offer = []string{"sweetshop.catalog.v1.CatalogService"}
//	door, err := gateway.New(gateway.Config{Services: []gateway.Service{catalog}})
//	defer door.Close()
//	err = http.ListenAndServe("127.0.0.1:8080", door)
//
// # What is let out
//
// [Service.Offer] names services and methods; nothing else is reachable, and an empty list
// is an error. How a method is called is its google.api.http rule, or its own path: see
// package [github.com/meshlite-go/meshlite/gateway/transcode]. /openapi.json describes all of
// it; / is a page to read it and try it, or /openapi/ where a site has /. /healthz answers
// while the process runs, and /readyz when requests should come.
//
// # Contracts follow the servers
//
// The contract of a service comes by reflection or from descriptor set files
// ([github.com/meshlite-go/meshlite/gateway/contract]). It is read again when instances
// change, when a file changes, and from time to time. A changed contract makes new routes
// that replace the old ones at once; requests in flight end on the old ones. So a new
// method needs no restart. A contract that is broken, that has an invalid policy, or whose
// routes conflict with those of another service is refused: the one before it stays, and
// the log, the metrics and [Gateway.Stats] report it.
//
// Two services that offer one method or one route are in conflict. A contract that changed
// into a conflict is refused. At the start the service that is first in [Config.Services]
// has the route, and the other one is left out until the conflict is gone.
//
// Until the contract of a service was read, requests to the paths of what it offers by name,
// /package.Service/Method, are answered 503 with Retry-After. Paths without a
// method or site are 404 at any time.
//
// # Metrics
//
// A Gateway is a prometheus.Collector of these, and of those of its edge:
//
//	meshlite_gateway_contract_loads_total{service, result}    readings: read, failed, refused
//	meshlite_gateway_contract_changes_total{service}          contracts that replaced another
//	meshlite_gateway_contract_read_timestamp_seconds{service} when a valid one was last read
//	meshlite_gateway_service_serving{service}                 1 while a contract is served
package gateway
