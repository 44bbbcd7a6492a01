package consul

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// explain turns an error of the API into one that says which agent it was, what
// was wrong and what to do. acl is the permission that the request needs.
func (d *Directory) explain(err error, acl string) error {
	var status api.StatusError
	var dns *net.DNSError
	var location *url.Error
	var large tooLargeError
	switch {
	case errors.As(err, &status) && (status.Code == http.StatusForbidden || status.Code == http.StatusUnauthorized):
		return fmt.Errorf("%s denied the request (%s): give a token with %s in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name(), d.brief(status.Body), acl)
	case errors.As(err, &status) && leaderless.MatchString(status.Body):
		return fmt.Errorf("%s answered %q: start servers until most of them are up, see `consul operator raft list-peers -stale`", d.Name(), d.brief(status.Body))
	case errors.As(err, &status):
		return fmt.Errorf("%s answered %d %q: is that a Consul agent? set CONSUL_HTTP_ADDR", d.Name(), status.Code, d.brief(status.Body))
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks plain HTTP: set CONSUL_HTTP_ADDR to http://host:port, or unset CONSUL_HTTP_SSL", d.Name())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refused the connection: is an agent running there? try `consul agent -dev`, or set CONSUL_HTTP_ADDR: %w", d.Name(), syscall.ECONNREFUSED)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: there is no such host: set CONSUL_HTTP_ADDR: %w", d.Name(), dns)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s closed the connection: was it stopped? %w", d.Name(), io.ErrUnexpectedEOF)
	case errors.As(err, &large):
		return fmt.Errorf("%s: %w: is that a Consul agent? %s", d.Name(), large, large.fix)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time: %w", d.Name(), context.DeadlineExceeded)
	case errors.As(err, &location):
		// The URL would only repeat the address and the query.
		return fmt.Errorf("%s: %w", d.Name(), d.concealed(location.Err))
	default:
		return fmt.Errorf("%s: %w", d.Name(), d.concealed(err))
	}
}

// filterFault is what Consul says of a wrong filter: a sentence, or what its parser
// says and where.
var filterFault = regexp.MustCompile(`(?i)expression|selector|^\d+:\d+ \(\d+\): `)

// leaderless is what agents say that have no leader, or know no server.
var leaderless = regexp.MustCompile(`No cluster leader|No known Consul servers`)

// explainQuery is explain for what q asks. Without a service that is the list of all.
func (d *Directory) explainQuery(err error, q catalog.Query) error {
	var status api.StatusError
	told := errors.As(err, &status)
	switch {
	case told && q.Filter != "" && filterFault.MatchString(status.Body):
		return fmt.Errorf("%s does not take the filter %#q (%s): write one such as `Service.Meta.version == \"2\"`", d.Name(), q.Filter, d.brief(status.Body))
	case told && strings.Contains(status.Body, "No path to datacenter"):
		return fmt.Errorf("%s knows no datacenter %q (%s): see `consul catalog datacenters`", d.Name(), q.Datacenter, d.brief(status.Body))
	case q.Service == "":
		return d.explain(err, "service:read and node:read")
	default:
		return d.explain(err, fmt.Sprintf("service:read on %q and node:read", q.Service))
	}
}

// hidden is what an answer to q means that ACLs have emptied.
func (d *Directory) hidden(q catalog.Query) error {
	if q.Service == "" {
		return fmt.Errorf("%s hid all services: the token needs service:read and node:read", d.Name())
	}
	return fmt.Errorf("%s hid the instances of %q: the token needs service:read on it and node:read", d.Name(), q.Service)
}

// userinfo is what stands before the host of a URL.
var userinfo = regexp.MustCompile(`://[^\s"']*@`)

// conceal takes what proves who we are out of a text: agents, and proxies before
// them, repeat requests in their answers.
func (d *Directory) conceal(text string) string {
	secrets := []string{d.settings.Token, d.currentToken()}
	if auth := d.settings.HttpAuth; auth != nil {
		secrets = append(secrets, auth.Password, base64.StdEncoding.EncodeToString([]byte(auth.Username+":"+auth.Password)))
	}
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return userinfo.ReplaceAllString(text, "://***@")
}

// concealed is err, or its text alone where it had a secret in it.
func (d *Directory) concealed(err error) error {
	if text := d.conceal(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

func (d *Directory) brief(body string) string { return brief(d.conceal(body)) }

// brief makes one line of what an agent, or what else listens there, has answered.
func brief(body string) string { return inOneLine(body, 200) }

// inOneLine is text in one line of most bytes.
func inOneLine(text string, most int) string {
	line := strings.Join(strings.Fields(text), " ")
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}
