// Package scrape reads the metrics of calls that a process exposes, and makes rates and
// quantiles of two such readings. `meshlite top` shows them.
//
//	before, err := scrape.Read(page, time.Now())
//	// some time later
//	now, err := scrape.Read(page, time.Now())
//	rates := now.Since(before, scrape.Server)
//	p99, beyond := rates.All.Latency.Quantile(0.99)
//
// Figures of several processes are added up, buckets and all, so that a quantile of a
// service is one of all its calls and no mean of quantiles.
package scrape
