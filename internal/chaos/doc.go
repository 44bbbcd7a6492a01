// Package chaos injects faults into a mesh of real processes and measures their effect
// on callers: a real Consul, three catalogs of the sweet shop and a client
// that calls them in an open loop.
//
//	result, err := chaos.Run(ctx, chaos.Options{Progress: os.Stderr})
//	result.WriteTable(os.Stdout)
//	missed := result.Missed() // the rows whose aim was missed, and by how much
//
// The faults are a table, rows: one entry is one fault with its aim. Each begins
// with a new client and a whole mesh, and ends when the mesh is whole again: three
// instances alive, passing in Consul, and called. Whatever the fault, no connection
// may be made twice to an instance that it does not concern. Where packets are dropped, the
// client, Consul and the instances are on hosts of their own (internal/hosts), which needs root
// on Linux; without, those rows are skipped and the result says so.
package chaos
