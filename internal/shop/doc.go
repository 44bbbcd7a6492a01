// Package shop runs the sweet shop on this machine: a registry, and the example
// services as real processes on free ports of loopback. The demo, `meshlite dev`
// and tests stand on it.
//
//	registry, err := shop.StartRegistry(ctx, shop.Auto)
//	defer registry.Stop()
//	s, err := shop.Open(registry, shop.Options{})
//	defer s.Close()
//	catalog, err := s.Start(ctx, "catalog") // returns once it is registered
//
// Whatever was started is stopped by its process id and waited for by Close, in
// order if the process obeys and by force if not. What the processes write is
// kept, bounded, and is part of the error when one of them fails.
package shop
