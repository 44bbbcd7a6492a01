// Package demo is the story of the guides, told with real processes: traffic at a
// sweet shop doubles overnight, replicas join, one is killed and others are
// restarted, while ordinary customers must not notice and one abusive customer
// must not get more than a customer's share.
//
//	result, err := demo.Run(ctx, demo.Options{Duration: 20 * time.Second, Progress: os.Stderr})
//	result.WriteTable(os.Stdout)
//	failed := result.Failed() // the names of the conditions that did not hold
//
// The load is open loop: calls are due at times that do not depend on how the
// answers come, and latency counts from when a call was due. What each instance
// did is read from its own /metrics.
package demo
