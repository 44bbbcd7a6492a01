// Package cli implements the commands of the meshlite tool, without the wiring of their
// flags: each command is a function of its options, its streams and a context. Errors
// have the fix, in one line, and carry the exit code.
//
//	err := cli.Call(ctx, cli.CallOptions{Target: "consul:///catalog", Method: method, Plaintext: true}, streams)
//	os.Exit(cli.Report(ctx, err, os.Stderr))
package cli
