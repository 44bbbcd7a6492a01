package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"
)

// explain turns an error of the API into one that says which agent it was, what
// was wrong and what to do. acl is the permission that the request needs.
func (d *Directory) explain(err error, acl string) error {
	var status api.StatusError
	var dns *net.DNSError
	var location *url.Error
	switch {
	case errors.As(err, &status) && (status.Code == http.StatusForbidden || status.Code == http.StatusUnauthorized):
		return fmt.Errorf("%s denied the request (%s): give a token with %s in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name(), brief(status.Body), acl)
	case errors.As(err, &status):
		return fmt.Errorf("%s answered %d %q: is that a Consul agent? set CONSUL_HTTP_ADDR", d.Name(), status.Code, brief(status.Body))
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks plain HTTP: set CONSUL_HTTP_ADDR to http://host:port, or unset CONSUL_HTTP_SSL", d.Name())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refused the connection: is an agent running there? try `consul agent -dev`, or set CONSUL_HTTP_ADDR: %w", d.Name(), syscall.ECONNREFUSED)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: there is no such host: set CONSUL_HTTP_ADDR: %w", d.Name(), dns)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time: %w", d.Name(), context.DeadlineExceeded)
	case errors.As(err, &location):
		// The URL would only repeat the address and the query.
		return fmt.Errorf("%s: %w", d.Name(), location.Err)
	default:
		return fmt.Errorf("%s: %w", d.Name(), err)
	}
}

// filterFault is what Consul says of a wrong filter: a sentence, or what its parser
// says and where.
var filterFault = regexp.MustCompile(`(?i)expression|selector|^\d+:\d+ \(\d+\): `)

// explainQuery is explain for a watch.
func (w *watch) explainQuery(err error) error {
	var status api.StatusError
	if w.query.Filter != "" && errors.As(err, &status) && filterFault.MatchString(status.Body) {
		return fmt.Errorf("%s does not take the filter %#q (%s): write one such as `Service.Meta.version == \"2\"`", w.Name(), w.query.Filter, brief(status.Body))
	}
	return w.explain(err, fmt.Sprintf("service:read on %q and node:read", w.query.Service))
}

// brief makes one line of what an agent, or what else listens there, has answered.
func brief(body string) string {
	const most = 200
	line := strings.Join(strings.Fields(body), " ")
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}
