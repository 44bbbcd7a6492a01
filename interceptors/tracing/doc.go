// Package tracing makes OpenTelemetry spans of calls and of their attempts, and
// carries the trace from client to server in the metadata of each attempt.
//
//	traced, err := tracing.New()
//	conn, err := meshlite.NewClient(target, meshlite.WithTracing(traced))
//	server, err := meshlite.NewServer(service, meshlite.WithTracing(traced))
//
// A call of a client is a span of kind CLIENT, named as the method is. Each of its
// attempts is a span of kind CLIENT below it, which names the instance that was
// picked and is the parent of the span of kind SERVER at the other end: who answers
// from the cache makes no attempt, a retry makes another one. Names are those of
// OpenTelemetry's semantic conventions for RPC, and besides:
//
//   - meshlite.cache.result of a call: "hit", "miss", "coalesced", "stale", ...
//   - meshlite.ratelimit.limit and .result of a call: the limit that decided,
//     "concurrency" being one, and "admitted", "refused", "shadowed" or "held_back"
//   - meshlite.route.name, .arm and .target of a call and of an attempt, where a chain of
//     routes decides: those of a call are of its last attempt, or of where its answer was
//     kept for; the target is such as "dc1/catalog/v2"
//   - meshlite.attempt.number of an attempt, 1 being the first
//   - meshlite.instance.id of an attempt, and its address in network.peer
//   - meshlite.retry.pushback_ms of an attempt, where the server says how long to
//     wait; -1 is not to try again
//
// [Tracing.StartRequest] makes the span of an HTTP request, for package gateway/edge.
//
// Messages and metadata are never written down, and what the other end writes is
// cut. A span of a stream ends with the stream, however that ends; one that is
// neither read to its end nor cancelled ends with its channel.
//
// Providers are the global ones of package otel unless options name others. While
// those are not set and there is nothing to pass on, methods have no part in a chain
// and calls cost nothing; a call that is not sampled costs its metadata and no span.
// Package env below this one makes a provider of the OTEL_* variables; only it
// compiles the SDK.
//
// OpenTelemetry's own otelgrpc and grpc-go's plugin are not used: as handlers of
// statistics they see neither a call that the cache answers, nor which attempts of
// ours make one call, nor who was picked. The metrics of grpc-go's plugin go well
// with this package, see the example.
package tracing
