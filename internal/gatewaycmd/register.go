package gatewaycmd

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/cli"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

const (
	// leaseTTL is for how long Consul has a gateway that was killed as healthy at most. The
	// proxies in front check by themselves.
	leaseTTL      = 5 * time.Second
	leaveTimeout  = 5 * time.Second
	checkTimeout  = 2 * time.Second
	enterTimeout  = 10 * time.Second // for Consul to take the registration
	enterInterval = 500 * time.Millisecond
)

// enter waits until the gateway is ready, and registers it if that is asked for. leave undoes
// it.
func (r *run) enter(ctx context.Context) (leave func(), err error) {
	nothing := func() {}
	if err := r.gateway.WaitReady(ctx); err != nil {
		return nothing, err
	}
	if !r.Register {
		return nothing, nil
	}
	address, err := r.advertised(ctx)
	if err != nil {
		return nothing, err
	}
	lease, err := r.register(ctx, r.registration(address))
	if err != nil {
		return nothing, err
	}
	r.log.Info("registered in Consul", "service", r.Name, "address", address)
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		if err := lease.Deregister(ctx); err != nil {
			r.log.Warn("the gateway stays registered until Consul removes it", "error", err)
		}
	}, nil
}

// register tries for some seconds: Consul may be starting, too.
func (r *run) register(ctx context.Context, registration catalog.Registration) (catalog.Lease, error) {
	limited, cancel := context.WithTimeout(ctx, enterTimeout)
	defer cancel()
	for {
		lease, err := r.directory.Register(limited, registration)
		if err == nil {
			return lease, nil
		}
		select {
		case <-limited.Done():
			return nil, fmt.Errorf("--register: %w", cmp.Or(ctx.Err(), err))
		case <-time.After(enterInterval):
		}
	}
}

// advertised is the address to register: where it listens, on a host that others can dial.
func (r *run) advertised(ctx context.Context) (string, error) {
	if r.Advertise != "" {
		return r.Advertise, nil
	}
	address := r.listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		var err error
		if host, err = r.directory.NodeAddress(ctx); err != nil {
			return "", fmt.Errorf("--register with %s %q: %w: give --advertise", r.listenBy(), r.Listen, err)
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(address.Port)), nil
}

// registration is that of a service without gRPC: the gateway asks itself and renews a lease.
func (r *run) registration(address string) catalog.Registration {
	metadata := map[string]string{"scheme": r.scheme()}
	if r.admin != nil {
		metadata["metrics_address"] = r.admin.Addr().String()
	}
	return catalog.Registration{
		Instance: catalog.Instance{
			ID: catalog.InstanceID(r.Name, address), Service: r.Name, Address: address,
			Tags: []string{r.scheme()}, Metadata: metadata, Region: r.region, Zone: r.zone,
		},
		TTL:       leaseTTL,
		SelfCheck: r.selfCheck,
	}
}

func (r *run) scheme() string {
	if r.tls != nil {
		return "https"
	}
	return "http"
}

// own is where the gateway reaches itself.
func (r *run) own() string {
	address := r.listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "localhost"
	}
	return r.scheme() + "://" + net.JoinHostPort(host, fmt.Sprint(address.Port))
}

// selfCheck asks whether the gateway is ready, over its own listener.
func (r *run) selfCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.own()+"/readyz", nil)
	if err != nil {
		return err
	}
	// It is about to reach this process; who it is is for callers to verify.
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 512))
		return fmt.Errorf("/readyz: %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// announced is what is served, as JSON.
type announced struct {
	Address        string             `json:"address"`
	MetricsAddress string             `json:"metrics_address,omitempty"`
	Services       []announcedService `json:"services"`
	Sites          []announcedSite    `json:"sites"`
}

type announcedService struct {
	Name    string   `json:"name"`
	LetsOut []string `json:"lets_out"`
}

type announcedSite struct {
	Name   string   `json:"name"`
	Prefix string   `json:"prefix"`
	URLs   []string `json:"urls"`
}

// announce writes where the gateway is and what it lets out.
func (r *run) announce() error {
	a := announced{Address: r.own(), Services: []announcedService{}, Sites: []announcedSite{}}
	if r.admin != nil {
		a.MetricsAddress = r.admin.Addr().String()
	}
	for _, s := range r.services {
		a.Services = append(a.Services, announcedService{s.name, r.letsOut(s)})
	}
	for _, s := range r.settings.sites {
		a.Sites = append(a.Sites, announcedSite{s.name, s.prefix, append([]string{}, s.urls...)})
	}
	if r.Format == cli.JSON {
		return cli.WriteJSON(r.streams.Out, a)
	}
	_, err := io.WriteString(r.streams.Out, a.text())
	return err
}

// letsOut are the names that are let out, of a contract as far as it was read.
func (r *run) letsOut(s service) []string {
	if len(s.names) > 0 {
		return s.names
	}
	for _, stats := range r.gateway.Stats() {
		if stats.Service == s.name {
			return append([]string{}, stats.Offers...)
		}
	}
	return []string{}
}

func (a announced) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gateway at %s: a page to read and try it at /, its description at /openapi.json\n", a.Address)
	for _, s := range a.Services {
		what := strings.Join(s.LetsOut, ", ")
		fmt.Fprintf(&b, "  %s: %s\n", s.Name, cmp.Or(what, "its contract was not read yet"))
	}
	for _, s := range a.Sites {
		what := strings.Join(s.URLs, ", ")
		fmt.Fprintf(&b, "  %s: %s\n", s.Prefix, cmp.Or(what, s.Name+" in Consul"))
	}
	if a.MetricsAddress != "" {
		fmt.Fprintf(&b, "metrics at http://%s/metrics\n", a.MetricsAddress)
	}
	return b.String()
}
