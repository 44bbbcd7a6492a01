// Package deadline gives calls the timeout that their policy says. It shortens
// the deadline of the caller and never lengthens it; a call that takes longer
// ends with DEADLINE_EXCEEDED.
//
//	limited, err := deadline.New()
//	chain, err := interceptors.Chain(interceptors.Client, policies, limited)
//
// The timeout is set on the client, from where gRPC carries it to the server,
// unless the rule says timeout_side. Retries and waits share it. A stream is
// bounded as a whole, from its opening to its end, so a method that streams for
// ever must not have a timeout.
//
// On the server the timeout ends the context that the handler is given. A handler
// must heed it: one that is blocked in Recv is woken by the deadline of the
// client, not by this one.
package deadline
