// Package edge is what stands around the handlers of a gateway: who calls, limits, sizes and
// times, CORS, compression, the access log, metrics and traces.
//
//	edge, err := edge.New(edge.Config{
//		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
//		Limits:         []edge.Limit{{Name: "each", Limit: 100, Period: time.Minute}},
//	})
//	server, err := edge.NewServer(edge.Handler(mux), edge.ServerConfig{})
//	err = server.Serve(ctx, listener)
//
// # Who calls
//
// [CallerOf] has the network address and the subject of a request. The address is that of
// the peer or, behind a trusted proxy, the first one from the right in X-Forwarded-For or in
// Forwarded, whichever [Config.ForwardedBy] names, that is not trusted. The subject is that
// of a bearer token, if [Config.Verifier] verifies it, or else of the client's certificate.
// A token that is not valid is 401, also where none is required.
//
// [Edge.Metadata] passes both on to gRPC backends, which believe them if they trust the
// gateway (caller.WithForwardedSubject), [Edge.Forward] to HTTP backends. Nothing else of a
// request's headers reaches a gRPC backend but what is allowed by name and its trace.
//
// # Limits
//
// [Limit] counts requests by address, subject, header or function with the algorithm of
// package ratelimit. A refusal is 429 with Retry-After and the fields RateLimit and
// RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers). All limits of a request must admit
// it; one that is refused costs nothing on the others.
//
// For users of express-rate-limit:
//
//	windowMs                 Limit.Period
//	limit                    Limit.Limit, or Limit.Rate for a function
//	message, statusCode      Limit.Message, Limit.Status
//	handler                  Limit.Handler
//	legacyHeaders            none: X-RateLimit-* has no agreed meaning
//	standardHeaders          draft 8 and later, with every refusal; Config.Fields for all
//	                         answers. Drafts 6 and 7 are superseded
//	identifier               Limit.Name
//	Retry-After              Retry-After, never below the true wait
//	requestPropertyName      Standings
//	keyGenerator             Limit.Key, or Limit.KeyOf for a function
//	ipv6Subnet               Limit.IPv6Prefix
//	trust proxy (Express)    Config.TrustedProxies
//	skip                     Limit.Skip, Limit.Paths
//	skipFailedRequests       Limit.Refund: RefundFailed
//	skipSuccessfulRequests   Limit.Refund: RefundSucceeded
//	requestWasSuccessful     Limit.Success
//	store, passOnStoreError  none: each gateway counts by itself. Limits of all replicas
//	                         together are those of the methods' policies, with a store
//	validate                 always: New names what is wrong
//	logger                   the access log and meshlite_edge_limited_total
//	getKey, resetKey         Edge.Standing, Edge.Reset
//
// # Compression
//
// Answers of 1 KiB and more in a compressible type are sent in zstd or gzip where the client
// accepts it, with a weak ETag. Streams of events and of JSON lines are not, nor parts (206),
// nor what is encoded or must not be transformed. Beware of BREACH: where an answer has both
// a secret and text of the attacker's choosing, its compressed length shows the secret. Such
// an answer is to have "Cache-Control: no-transform", or [Config.NoCompression] is to be set.
//
// # Metrics
//
// [Edge] and [Server] are Prometheus collectors. Their labels are bounded: methods, routes
// beyond 512, and codes that are not known are "other".
//
//	meshlite_edge_requests_total             method, route, code, code_class (ok, client, server)
//	meshlite_edge_request_seconds            method, route
//	meshlite_edge_in_flight_requests
//	meshlite_edge_refused_total              reason: form, origin, url, body, limit, key, token, subject
//	meshlite_edge_limited_total              limit, result: admitted, refused, shadowed
//	meshlite_edge_panics_total
//	meshlite_edge_connections
//	meshlite_edge_refused_connections_total  reason: address, total, evicted
//	meshlite_edge_cut_total                  what: body, answer
//
// # The server
//
// [Server] holds what slow clients can take: a header must arrive within
// [ServerConfig.HeaderTimeout], a body at no less than [ServerConfig.MinRate], and a client
// must read within [ServerConfig.WriteStall]. Connections are capped, overall and by address;
// when there is no room the oldest one without a request gives way. When its context ends the
// server drains as those of package meshlite do.
//
// A Go server gives "Content-Length" with "Transfer-Encoding" the meaning of RFC 9112 (the
// latter) and refuses other forms of request smuggling; backends get requests that are made
// anew. Paths with "." or ".." as a segment, encoded or not, control characters, spaces in the
// query, and methods and hosts that HTTP/1.1 does not have are 400.
package edge
