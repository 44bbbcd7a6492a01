package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/contract"
	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/gateway/openapi"
	"github.com/meshlite-go/meshlite/gateway/transcode"
	"github.com/meshlite-go/meshlite/interceptors"
)

const (
	defaultInterval     = 30 * time.Second
	defaultReadyTimeout = 30 * time.Second
)

// Config is what a [Gateway] serves. Services or Sites are needed; zero values of the
// others are their defaults.
type Config struct {
	Services []Service
	// Sites are handlers of plain HTTP by the prefix of their paths, such as "/web/". The
	// longest prefix wins. "/" gets what nothing else has.
	Sites map[string]http.Handler

	// Edge stands around all but /healthz and /readyz. It is made before the gateway, so that
	// sites can use it, too. Default: edge.New of a Config with the Logger alone.
	Edge *edge.Edge
	// Transcode has the bounds of calls. Its Services and SetRoute and, unless set, Metadata
	// and Logger are the gateway's. Its Origins narrow those that the CORS of Edge allows.
	Transcode transcode.Config
	// Info is what the OpenAPI document says of the whole.
	Info openapi.Info

	// Interval is how often contracts are read if nothing says that they have changed: 30 s.
	Interval time.Duration
	// ReadyTimeout is how long after the start the gateway waits to be ready for contracts
	// that cannot be read: 30 s. One service that is down then keeps no gateway from serving
	// the others.
	ReadyTimeout time.Duration
	Logger       *slog.Logger // slog.Default()
}

// Service is one gRPC service of the directory, which may offer several proto services.
// [Dial] makes one of a name.
type Service struct {
	Name string // in logs, metrics and errors
	Conn grpc.ClientConnInterface
	// Contract is where its contract is read. Nil is reflection over Conn.
	Contract contract.Source
	// Offer lists what is let out: "package.Service", "package.Service/Method", or "*" for all
	// but gRPC's own services.
	Offer []string

	// Changed is received from when instances have changed. Nil: the contract is read by
	// Interval alone.
	Changed <-chan struct{}
	// Contracts are kept as the contract is, so that the policies of a channel made with
	// meshlite.WithContracts follow. A channel of its own is needed for each Service. Nil is
	// none: the policies are those of the linked contracts, and answers have no HTTP caching.
	Contracts *interceptors.Contracts
	// KeepRenderings has the cache of Conn keep the JSON of its answers, too, so that a hit is
	// neither decoded nor encoded. It is for channels whose interceptors outside of the cache,
	// such as those of meshlite.WithDialOptions, do not change replies, and read no more of them
	// than their size. See cache.Derived.
	KeepRenderings bool

	close func()
}

// Close ends what [Dial] has begun. A Service that Dial did not make has nothing to close.
func (s Service) Close() {
	if s.close != nil {
		s.close()
	}
}

// finish checks c and sets the defaults.
func (c *Config) finish() error {
	if len(c.Services) == 0 && len(c.Sites) == 0 {
		return errors.New("gateway: Config.Services and Config.Sites are empty: name at least one service or site")
	}
	c.Services = slices.Clone(c.Services)
	names, followed := map[string]bool{}, map[*interceptors.Contracts]bool{}
	for i := range c.Services {
		if err := c.Services[i].finish(); err != nil {
			return fmt.Errorf("gateway: Config.Services[%d]%w", i, err)
		}
		if name := c.Services[i].Name; names[name] {
			return fmt.Errorf("gateway: Config.Services[%d].Name %q is taken by another one: name each differently", i, name)
		}
		if contracts := c.Services[i].Contracts; contracts != nil && followed[contracts] {
			return fmt.Errorf("gateway: Config.Services[%d].Contracts of %q are those of another service: give each a channel with Contracts of its own", i, c.Services[i].Name)
		}
		names[c.Services[i].Name], followed[c.Services[i].Contracts] = true, true
	}
	for prefix, site := range c.Sites {
		if err := checkSite(prefix, site); err != nil {
			return fmt.Errorf("gateway: Config.Sites[%q]: %w", prefix, err)
		}
	}
	switch {
	case c.Interval != 0 && c.Interval < time.Second:
		return fmt.Errorf("gateway: Config.Interval %v is too short: write at least 1s, or 0 for %v", c.Interval, defaultInterval)
	case c.ReadyTimeout < 0:
		return fmt.Errorf("gateway: Config.ReadyTimeout %v is negative: write a duration, or 0 for %v", c.ReadyTimeout, defaultReadyTimeout)
	case len(c.Transcode.Services) > 0:
		return errors.New("gateway: Config.Transcode.Services is set: name them in Config.Services")
	}
	c.Interval = cmp.Or(c.Interval, defaultInterval)
	c.ReadyTimeout = cmp.Or(c.ReadyTimeout, defaultReadyTimeout)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Edge == nil {
		made, err := edge.New(edge.Config{Logger: c.Logger})
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		c.Edge = made
	}
	c.Transcode.SetRoute = edge.SetRoute
	if c.Transcode.Origins == nil {
		c.Transcode.Origins = []string{"*"} // the edge has checked it
	}
	if c.Transcode.Metadata == nil {
		c.Transcode.Metadata = c.Edge.Metadata
	}
	if c.Transcode.Logger == nil {
		c.Transcode.Logger = c.Logger
	}
	return nil
}

func checkSite(prefix string, site http.Handler) error {
	switch {
	case site == nil:
		return errors.New("the handler is nil: give one, or leave the site out")
	case !strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/"):
		return fmt.Errorf("the prefix has no slash at both ends: write %q", "/"+strings.Trim(prefix, "/")+"/")
	}
	return nil
}

func (s *Service) finish() error {
	switch {
	case s.Name == "":
		return errors.New(".Name is empty: write the service's name in the directory")
	case s.Conn == nil:
		return fmt.Errorf(".Conn of %q is nil: give a channel, or make the service by Dial", s.Name)
	case len(s.Offer) == 0:
		return fmt.Errorf(".Offer of %q is empty, so nothing is let out: name services or methods, or write \"*\"", s.Name)
	}
	for _, offer := range s.Offer {
		if err := checkOffer(offer); err != nil {
			return fmt.Errorf(".Offer of %q: %w", s.Name, err)
		}
	}
	if s.Contract == nil {
		s.Contract = contract.Reflection(s.Conn)
	}
	return nil
}

func checkOffer(offer string) error {
	if offer == "*" {
		return nil
	}
	service, method, hasMethod := strings.Cut(offer, "/")
	if !protoreflect.FullName(service).IsValid() || hasMethod && !protoreflect.Name(method).IsValid() {
		return fmt.Errorf("%q is no name: write \"package.Service\", \"package.Service/Method\" or \"*\"", offer)
	}
	if interceptors.Infrastructure(service) {
		return fmt.Errorf("%q is gRPC's own service, which is for the mesh alone: leave it out", offer)
	}
	return nil
}

// offers reports whether method is let out.
func (s *Service) offers(method protoreflect.MethodDescriptor) bool {
	service := string(method.Parent().FullName())
	if interceptors.Infrastructure(service) {
		return false
	}
	return slices.ContainsFunc(s.Offer, func(offer string) bool {
		return offer == "*" || offer == service || offer == service+"/"+string(method.Name())
	})
}

// names reports whether path is the own path of something that is offered by name.
func (s *Service) names(path string) bool {
	path = strings.TrimPrefix(path, "/")
	return slices.ContainsFunc(s.Offer, func(offer string) bool {
		rest, found := strings.CutPrefix(path, offer)
		return found && (rest == "" && strings.Contains(offer, "/") || strings.HasPrefix(rest, "/") && !strings.Contains(offer, "/"))
	})
}

// missing are the names in Offer that a contract does not have.
func (s *Service) missing(offered *contract.Contract) []string {
	return slices.DeleteFunc(slices.Clone(s.Offer), func(offer string) bool {
		service, method, hasMethod := strings.Cut(offer, "/")
		return offer == "*" || slices.ContainsFunc(offered.Services, func(d protoreflect.ServiceDescriptor) bool {
			return string(d.FullName()) == service && (!hasMethod || d.Methods().ByName(protoreflect.Name(method)) != nil)
		})
	})
}
