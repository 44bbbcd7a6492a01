package doctor

import (
	"fmt"

	"github.com/meshlite-go/meshlite/resolver"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// panics looks whether so few instances are healthy that clients, as they are by default,
// call those that are not.
func (s *service) panics() []Check {
	healthy, unhealthy := 0, 0
	for i, e := range s.entries {
		switch {
		case e.Address == "" || e.Weight == 0 && e.Status != catalog.Critical || maintenance(s.entries[i]) != nil:
		case e.Status == catalog.Passing:
			healthy++
		default:
			unhealthy++
		}
	}
	if !resolver.BelowPanicThreshold(healthy, unhealthy) {
		return nil
	}
	return []Check{{
		Group: Service, Service: s.name, Name: "panic", Result: Warning,
		Text: fmt.Sprintf("%d of %d instances are healthy by Consul: clients call the others, too, as far as they answer", healthy, healthy+unhealthy),
		Fix:  "are the instances ill, or the checks that say so? What each says of itself stands above",
	}}
}
