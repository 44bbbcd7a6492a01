package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Agent asks the agent about itself. Reached, Leader and Clock, which need no
// permission, are told even when the rest cannot be read and the error says so.
func (d *Directory) Agent(ctx context.Context) (Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var told Agent
	var err error
	if told.Leader, told.Clock, err = d.leader(ctx); err != nil {
		return told, d.explain(err, "agent:read")
	}
	told.Reached = true
	var self struct {
		Config      struct{ Version, Revision, NodeName, Datacenter string }
		DebugConfig struct{ ACLsEnabled bool }
		Member      struct{ Addr string }
	}
	err = d.ask(ctx, "/v1/agent/self", &self)
	if err != nil {
		told.ACLs = statusOf(err) == http.StatusForbidden
		return told, d.explain(err, "agent:read")
	}
	told.Version, told.Node, told.Datacenter = self.Config.Version, self.Config.NodeName, self.Config.Datacenter
	told.StandIn = self.Config.Revision == "consultest"
	told.NodeAddress, told.ACLs = self.Member.Addr, self.DebugConfig.ACLsEnabled
	return told, nil
}

// leader asks for the address of the leader, and looks at the clock meanwhile.
func (d *Directory) leader(ctx context.Context) (leader string, ahead time.Duration, err error) {
	settings := d.settings
	watch := &clockReader{RoundTripper: d.settings.HttpClient.Transport}
	asking := *d.settings.HttpClient
	asking.Transport = watch // api.QueryMeta keeps no Date
	settings.HttpClient = &asking
	client, err := api.NewClient(&settings)
	if err != nil {
		return "", 0, err
	}
	_, err = client.Raw().Query("/v1/status/leader", &leader, (&api.QueryOptions{}).WithContext(ctx))
	return leader, watch.ahead, err
}

// clockReader reads the clock of whom it talks to.
type clockReader struct {
	http.RoundTripper
	ahead time.Duration
}

func (c *clockReader) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := time.Now()
	response, err := c.RoundTripper.RoundTrip(request)
	if err == nil {
		c.ahead = clockAhead(response.Header.Get("Date"), asked, time.Now())
	}
	return response, err
}

// clockAhead takes the answer to be written half way through the round trip. A date
// is cut to the second, so half of one is added, and less than one means nothing.
func clockAhead(date string, asked, answered time.Time) time.Duration {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return 0
	}
	ours := asked.Add(answered.Sub(asked) / 2)
	return theirs.Add(time.Second / 2).Sub(ours).Truncate(time.Second)
}

// CheckToken says whether the agent takes the token of this directory: nil also
// where there is no access control.
func (d *Directory) CheckToken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := d.ask(ctx, "/v1/acl/token/self", &struct{}{})
	switch {
	case err == nil, strings.Contains(err.Error(), "ACL support disabled"):
		return nil
	case statusOf(err) != http.StatusForbidden:
		return d.explain(err, "acl:read")
	case !d.token:
		return fmt.Errorf("%s has ACLs and no token is given: set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name())
	default:
		return fmt.Errorf("%s does not know the token: it was deleted, has expired or is of another datacenter: set another in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE", d.Name())
	}
}

// ask reads what does not block.
func (d *Directory) ask(ctx context.Context, path string, out any) error {
	_, err := d.client.Raw().Query(path, out, (&api.QueryOptions{}).WithContext(ctx))
	return err
}

func statusOf(err error) int {
	var status api.StatusError
	if errors.As(err, &status) {
		return status.Code
	}
	return 0
}
