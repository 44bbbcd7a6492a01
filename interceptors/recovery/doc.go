// Package recovery turns a panic in a handler, or in what a client runs inside
// its chain, into codes.Internal. The process goes on, the peer sees nothing of
// the panic, and the log has its stack.
//
//	recovered, err := recovery.New(recovery.WithLogger(logger))
//	chain, err := interceptors.Chain(interceptors.Server, policies, recovered)
//
// On the server it is the recovery of go-grpc-middleware, configured to keep the stack
// off the wire; that one has no client side.
//
// Every panic is one to recover from, http.ErrAbortHandler included: nothing
// above a gRPC handler would understand it, and the process would end. A handler
// that leaves by runtime.Goexit has not panicked; it is neither logged nor
// counted.
package recovery
