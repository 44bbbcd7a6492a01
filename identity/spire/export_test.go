package spire

import "github.com/spiffe/go-spiffe/v2/workloadapi"

// WithClientOptions adds options of the client below.
func (c Config) WithClientOptions(options ...workloadapi.ClientOption) Config {
	c.options = append(c.options, options...)
	return c
}
