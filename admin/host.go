package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

const (
	metricsPath = "/metrics"
	healthPath  = "/healthz"
	readyPath   = "/readyz"
)

// protect keeps all but metrics and health from whoever may not see them: requests whose
// Host is not a name of this machine, against DNS rebinding in browsers, and those that
// [access] refuses. Metrics and health are for all, by all names, since Prometheus and load
// balancers have their own names for a host, and these pages reveal less.
func (c *config) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case metricsPath, healthPath, readyPath:
			next.ServeHTTP(w, r)
			return
		}
		if err := c.checkHost(r); err != nil {
			plain(w, http.StatusForbidden, err.Error()+"\n")
			return
		}
		if code, reason := c.access.refuse(r); code != 0 {
			if code == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="meshlite"`)
			}
			plain(w, code, reason+"\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *config) checkHost(r *http.Request) error {
	// Browsers come over TCP, and net/http says so.
	if _, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); !tcp {
		return nil
	}
	host := hostKey(r.Host)
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || c.hosts[host] {
		return nil
	}
	return fmt.Errorf("host %.255q is not a known name of this one: write its address or localhost, or allow the name by admin.WithHosts or meshlite.WithMetricsAddress", r.Host)
}

// hostKey is host without a port, as it is compared.
func hostKey(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}
