// Package shop runs the sweet shop on this machine: a registry, and the example
// services as real processes on free ports of loopback. The demo, `meshlite dev`
// and tests use it.
//
//	registry, err := shop.StartRegistry(ctx, shop.Auto)
//	defer registry.Stop()
//	s, err := shop.Open(registry, shop.Options{})
//	defer s.Close()
//	catalog, err := s.Start(ctx, "catalog") // returns once it is registered
//
// Close stops every process by its id and waits: with SIGTERM first, with SIGKILL if it
// does not end in time. The last output of a process is kept, bounded, and is part of the
// error if it fails.
package shop
