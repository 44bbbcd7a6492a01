package routes

import (
	"context"
	"strings"

	"github.com/meshlite-go/meshlite/resolver/route"
)

// match is the index of the first route that takes a call; -1 without one.
func match(chain *route.Chain, method string, _ context.Context) int {
	for i, r := range chain.Routes {
		m := &r.Match
		if (m.PathExact == "" || m.PathExact == method) && strings.HasPrefix(method, m.PathPrefix) {
			return i
		}
	}
	return -1
}
