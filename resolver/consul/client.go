package consul

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// client sends requests to one agent, and explains its errors.
type client struct {
	api        *api.Client
	settings   api.Config
	address    string
	unixSocket bool              // address is a path
	hasToken   bool              // requests carry one
	token      func() string     // the current one; nil: it cannot change
	base       http.RoundTripper // below the transports of this package
	maxBody    int64             // of an answer, in bytes
	counters   *counters
	log        *slog.Logger
}

func newClient(config Config) (*client, error) {
	settings := api.DefaultConfig()
	prepare(settings.Transport)
	if config.Address != "" {
		settings.Address = config.Address
	}
	if config.Transport != nil {
		settings.HttpClient = &http.Client{Transport: config.Transport}
	}
	c := &client{maxBody: cmp.Or(config.MaxBodyBytes, defaultMaxBody), log: config.Logger}
	if c.log == nil {
		c.log = slog.Default()
	}
	var err error
	if c.token, err = tokenOf(config, settings, c.log); err != nil {
		return nil, err
	}
	if c.token != nil {
		settings.Token, settings.TokenFile = c.token(), ""
	}
	if err := c.connect(*settings); err != nil {
		return nil, err
	}
	return c, nil
}

// at returns a client of another agent, with the same settings and transport.
func (c *client) at(agent string) (*client, error) {
	other := *c
	settings := c.settings
	settings.Address, settings.PathPrefix = agent, ""
	settings.HttpClient = &http.Client{Transport: c.base}
	if c.unixSocket {
		settings.HttpClient = nil // it dials the socket, whatever the address
	}
	if err := other.connect(settings); err != nil {
		return nil, err
	}
	return &other, nil
}

func (c *client) connect(settings api.Config) error {
	address := settings.Address
	if err := checkAgentAddress(address); err != nil {
		return err
	}
	c.unixSocket = strings.HasPrefix(address, "unix://")
	made, err := api.NewClient(&settings)
	if err != nil {
		return fmt.Errorf("consul: the agent at %q: check the CONSUL_* environment: %w", address, err)
	}
	c.counters = &counters{}
	c.base = settings.HttpClient.Transport
	settings.HttpClient.Transport = c.transport()
	settings.HttpClient.CheckRedirect = sameHost
	c.api, c.settings = made, settings
	c.address = settings.Address + settings.PathPrefix // without the scheme, which NewClient has cut off
	c.hasToken = settings.Token != ""
	return nil
}

// transport wraps the base in the transports of this package.
func (c *client) transport() http.RoundTripper {
	next := http.RoundTripper(counted{decoder{bounded{c.base, c.maxBody}}, c.counters})
	if c.token != nil {
		next = authorized{next, c.token}
	}
	return next
}

// checkAgentAddress does not repeat an address that may hold a secret.
func checkAgentAddress(address string) error {
	if strings.Contains(address, "@") {
		return errors.New("consul: the address of the agent has user information: set CONSUL_HTTP_AUTH or CONSUL_HTTP_TOKEN instead")
	}
	if strings.ContainsAny(address, "?#") {
		return errors.New("consul: the address of the agent has a query: leave it out, a token belongs in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE")
	}
	for _, scheme := range []string{"http://", "https://", "unix://"} {
		if strings.HasPrefix(address, scheme) {
			return nil // these have ports of their own
		}
	}
	if _, port, err := net.SplitHostPort(address); err != nil || !isPort(port) {
		return fmt.Errorf("consul: the address of the agent is %q: set CONSUL_HTTP_ADDR to host:port, such as 127.0.0.1:8500", address)
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

func (c *client) name() string { return "consul at " + c.address }

// currentToken returns the current token, or "" for one that cannot change.
func (c *client) currentToken() string {
	if c.token == nil {
		return ""
	}
	return c.token()
}

// get decodes the answer to a request that does not block into out.
func (c *client) get(ctx context.Context, path string, out any) error {
	_, err := c.api.Raw().Query(path, out, (&api.QueryOptions{}).WithContext(ctx))
	return err
}

// entries reads the instances of a service one by one. The count it returns includes those
// without a service, which are not passed to take.
func (c *client) entries(ctx context.Context, q catalog.Query, options *api.QueryOptions, take func(*entry)) (int, *api.QueryMeta, error) {
	n := 0
	ctx = decoding(ctx, func(body io.Reader) error {
		return eachItem(body, func(e *entry) {
			n++
			if e.Service != nil {
				take(e)
			}
		})
	})
	_, meta, err := c.api.Health().ServiceMultipleTags(q.Service, q.Tags, false, options.WithContext(ctx))
	return n, meta, err
}

func statusOf(err error) int {
	var status api.StatusError
	if errors.As(err, &status) {
		return status.Code
	}
	return 0
}

// isDenied reports whether the agent refuses the token.
func isDenied(err error) bool {
	status := statusOf(err)
	return status == http.StatusForbidden || status == http.StatusUnauthorized
}

// explain turns an error of the API into one that names the agent, what went wrong and the
// fix. acl is the permission that the request needs.
func (c *client) explain(err error, acl string) error {
	var status api.StatusError
	var dns *net.DNSError
	var location *url.Error
	var large tooLargeError
	switch {
	case errors.As(err, &status) && isDenied(err):
		return fmt.Errorf("%s denied the request (%s): give a token with %s in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", c.name(), c.brief(status.Body), acl)
	case errors.As(err, &status) && leaderless.MatchString(status.Body):
		return fmt.Errorf("%s answered %q: start servers until most of them are up, see `consul operator raft list-peers -stale`", c.name(), c.brief(status.Body))
	case errors.As(err, &status):
		return fmt.Errorf("%s answered %d %q: is that a Consul agent? set CONSUL_HTTP_ADDR", c.name(), status.Code, c.brief(status.Body))
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks plain HTTP: set CONSUL_HTTP_ADDR to http://host:port, or unset CONSUL_HTTP_SSL", c.name())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refused the connection: is an agent running there? try `consul agent -dev`, or set CONSUL_HTTP_ADDR: %w", c.name(), syscall.ECONNREFUSED)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: no such host: set CONSUL_HTTP_ADDR: %w", c.name(), dns)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s closed the connection: was it stopped? %w", c.name(), io.ErrUnexpectedEOF)
	case errors.As(err, &large):
		return fmt.Errorf("%s: %w: is that a Consul agent? %s", c.name(), large, large.fix)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time: %w", c.name(), context.DeadlineExceeded)
	case errors.As(err, &location):
		// The URL would only repeat the address and the query.
		return fmt.Errorf("%s: %w", c.name(), c.concealed(location.Err))
	default:
		return fmt.Errorf("%s: %w", c.name(), c.concealed(err))
	}
}

// filterFault matches how Consul rejects a filter: a sentence, or a parser error with its
// position.
var filterFault = regexp.MustCompile(`(?i)expression|selector|^\d+:\d+ \(\d+\): `)

// leaderless matches the errors of agents without a leader or a server.
var leaderless = regexp.MustCompile(`No cluster leader|No known Consul servers`)

// explainQuery is explain for q, which without a service is the list of all services.
func (c *client) explainQuery(err error, q catalog.Query) error {
	var status api.StatusError
	hasStatus := errors.As(err, &status)
	switch {
	case hasStatus && q.Filter != "" && filterFault.MatchString(status.Body):
		return fmt.Errorf("%s rejects the filter %#q (%s): write one such as `Service.Meta.version == \"2\"`", c.name(), q.Filter, c.brief(status.Body))
	case hasStatus && strings.Contains(status.Body, "No path to datacenter"):
		return fmt.Errorf("%s has no datacenter %q (%s): see `consul catalog datacenters`", c.name(), q.Datacenter, c.brief(status.Body))
	case q.Service == "":
		return c.explain(err, "service:read and node:read")
	default:
		return c.explain(err, fmt.Sprintf("service:read on %q and node:read", q.Service))
	}
}

// filtered returns the error for an answer to q that is empty because of ACLs.
func (c *client) filtered(q catalog.Query) error {
	if q.Service == "" {
		return fmt.Errorf("%s returns no services because of ACLs: the token needs service:read and node:read", c.name())
	}
	return fmt.Errorf("%s returns no instances of %q because of ACLs: the token needs service:read on it and node:read", c.name(), q.Service)
}

// userinfo matches the user information of a URL.
var userinfo = regexp.MustCompile(`://[^\s"']*@`)

// conceal removes credentials from a text: agents, and proxies before them, may repeat
// requests in their answers.
func (c *client) conceal(text string) string {
	secrets := []string{c.settings.Token, c.currentToken()}
	if auth := c.settings.HttpAuth; auth != nil {
		secrets = append(secrets, auth.Password, base64.StdEncoding.EncodeToString([]byte(auth.Username+":"+auth.Password)))
	}
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return userinfo.ReplaceAllString(text, "://***@")
}

// concealed returns err, or only its text if it had a secret in it.
func (c *client) concealed(err error) error {
	if text := c.conceal(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

func (c *client) brief(body string) string { return brief(c.conceal(body)) }

// brief returns the answer of whatever listens there in one short line.
func brief(body string) string { return inOneLine(body, 200) }

// inOneLine returns text in one line of at most limit bytes.
func inOneLine(text string, limit int) string {
	line := strings.Join(strings.Fields(text), " ")
	if len(line) > limit {
		line = strings.ToValidUTF8(line[:limit], "") + "..."
	}
	return line
}
