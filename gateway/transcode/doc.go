// Package transcode serves gRPC methods over HTTP with JSON, from their contracts alone:
//
//	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{
//		Name: "catalog", Conn: conn, Contract: contract,
//		Offers: func(protoreflect.MethodDescriptor) bool { return true },
//	}}})
//	http.ListenAndServe(address, mux)
//
// A [Mux] serves one set of contracts. When a contract changes, make a new one.
//
// # Paths
//
// A method is called as its google.api.http rule says: bindings and additional bindings,
// path templates with verbs, body, response_body. Every method is also POST
// /package.Service/Method, and GET with query parameters if it is marked
// idempotency_level = NO_SIDE_EFFECTS. HEAD is served as GET, and OPTIONS lists the methods of
// a path.
//
// A path variable of one segment is unescaped wholly. One of several segments keeps the
// escapes of reserved characters, such as %2F. Unlike grpc-gateway's own mux, a form is no
// body, X-HTTP-Method-Override is ignored, and an unknown query parameter is an error.
//
// # Messages
//
// JSON is that of protojson, read strictly: an unknown field, a wrong type, an unknown enum
// value, a number out of range, a duplicate key or invalid UTF-8 is 400, with the path of the
// field as the caller wrote it, and no call is made. 64-bit integers are strings in answers,
// and strings or numbers in requests. Bodies are bounded in
// size, depth and number of values.
//
// # Errors
//
// An error is a problem (RFC 9457), with the status code that grpc-gateway gives to the gRPC
// code, and the details of google.rpc as JSON. The text of UNKNOWN, INTERNAL and DATA_LOSS, and
// that of UNAVAILABLE, DEADLINE_EXCEEDED and CANCELLED, which may name addresses, is logged
// and not shown, and neither is google.rpc.DebugInfo, unless [Config].ShowInternal is set.
// RetryInfo or the pushback of gRPC becomes Retry-After.
//
// # Connect
//
// A POST to /package.Service/Method with Connect-Protocol-Version, and a GET with connect=v1, is
// answered by Connect's unary protocol, in JSON or protobuf. gRPC-Web is not served.
//
// # Streams
//
// A stream of answers is NDJSON, or server-sent events if Accept names text/event-stream. A
// message is written when it comes, and the next one is read when the caller has taken it. An
// error after the first message is the last line, {"error":{...}}, or the last event, error.
// The last event of a stream that ends well is end.
//
// A stream of requests takes a WebSocket at /package.Service/Method, for pages of the same host
// or of [Config].Origins. Each text is a message, an empty one ends the caller's messages. The
// close code is 1000, or 4000 plus the gRPC code, 1007 for wrong JSON, 1009 for a message that
// is too large; the text before it is {"error":{...}}.
//
// # Caches
//
// An answer to GET or HEAD has an ETag, and If-None-Match is answered with 304. Cache-Control,
// Age and Vary come from [Service].Cache and from what a cache in the channel says in the
// metadata of the answer. What is answered to a caller with Authorization or a subject is never
// public, and a failure is stored only if the policy lists its code.
//
// # Time
//
// The deadline of a call is grpc-timeout, Connect-Timeout-Ms, Prefer: wait=N (RFC 7240), or
// [Config].Timeout, and never more than [Config].MaxTimeout. A caller that goes away cancels
// its call.
package transcode
