// Package benchkit is what benchmarks of whole calls have in common: callers in a closed
// loop, backends that echo, the CPU time of processes, and NGINX and HAProxy in front.
//
//	m, err := benchkit.Load{Warm: time.Second, Window: 3 * time.Second}.Run(clients)
package benchkit
