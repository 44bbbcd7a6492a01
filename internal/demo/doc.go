// Package demo plays the story of the guides with real processes: traffic at a sweet
// shop doubles overnight, replicas join, one is killed and others are
// restarted, while ordinary customers must not notice and one abusive customer
// must not get more than a customer's share. A third of the customers come through the gateway,
// by JSON over HTTP.
//
//	result, err := demo.Run(ctx, demo.Options{Duration: 20 * time.Second, Progress: os.Stderr})
//	result.WriteTable(os.Stdout)
//	failed := result.Failed() // the names of the conditions that did not hold
//
// The load is open loop: calls are sent on a schedule that does not depend on the
// answers, and latency counts from the scheduled time. The calls of each instance are
// read from its own /metrics.
package demo
