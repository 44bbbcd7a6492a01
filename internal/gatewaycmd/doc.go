// Package gatewaycmd is the command that runs a gateway: `meshlite gateway` and the program
// gateway are both [Command]. It reads flags, registers the gateway in Consul, and serves
// until its context ends.
//
//	cmd := gatewaycmd.Command()
//	cmd.SetArgs([]string{"--plaintext", "catalog", "--http", "web=/web/"})
//	err := cmd.ExecuteContext(ctx)
package gatewaycmd
