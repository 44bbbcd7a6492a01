package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/hosts"
)

// agent is Consul as an operator sees it, who asks it directly. A connection that
// is kept would break with the agent.
type agent struct {
	address string
	client  *http.Client
}

// From is where the operator is.
func newAgent(address string, from *hosts.Host) agent {
	return agent{address, &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: from.Dialer(net.Dialer{})},
	}}
}

// passing are the addresses of the instances of service that pass their checks.
func (a agent) passing(ctx context.Context, service string) (map[string]bool, error) {
	var entries []struct {
		Service struct {
			Address string
			Port    int
		}
	}
	body, err := a.do(ctx, http.MethodGet, "/v1/health/service/"+service+"?passing=true", nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, fmt.Errorf("consul at %s: %w", a.address, err)
	}
	addresses := map[string]bool{}
	for _, e := range entries {
		addresses[net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port))] = true
	}
	return addresses, nil
}

// deregister makes the agent forget the service with id.
func (a agent) deregister(ctx context.Context, id string) error {
	_, err := a.do(ctx, http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(id), nil)
	return err
}

// maintain turns the maintenance mode of the service with id on or off: while it is
// on, the service is critical.
func (a agent) maintain(ctx context.Context, id string, on bool) error {
	_, err := a.do(ctx, http.MethodPut, fmt.Sprintf("/v1/agent/service/maintenance/%s?enable=%t", url.PathEscape(id), on), nil)
	return err
}

func (a agent) do(ctx context.Context, method, path string, content []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+a.address+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("consul at %s answers %s %s with %s: %.100s", a.address, method, path, response.Status, strings.TrimSpace(string(body)))
	}
	return body, err
}
