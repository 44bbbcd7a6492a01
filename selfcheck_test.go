package meshlite_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// nodeAt is a directory whose node is elsewhere.
type nodeAt struct {
	meshlite.Directory
	host string
}

func (d nodeAt) NodeAddress(context.Context) (string, error) { return d.host, nil }

// Behind a port mapping without hairpin NAT a server starts: the self-check is directed
// elsewhere or left to Consul, and its error names the option that is missing.
func TestSelfCheckBehindAPortMapping(t *testing.T) {
	m := newMesh(t)
	inside, mapped := freeport.For(t), freeport.For(t) // nothing listens on the latter here
	for name, test := range map[string]struct {
		options []meshlite.ServerOption
		names   string // the option in the error; "" is no error
	}{
		"not said": {[]meshlite.ServerOption{meshlite.WithListenAddress(inside), meshlite.WithAdvertisedAddress(mapped)},
			`if only others reach the server at WithAdvertisedAddress "` + mapped + `", as behind a port mapping, set the SelfCheck of WithRegistration`},
		"directed elsewhere": {[]meshlite.ServerOption{meshlite.WithListenAddress(inside), meshlite.WithAdvertisedAddress(mapped),
			selfCheck(dials(inside))}, ""},
		"left to Consul": {[]meshlite.ServerOption{meshlite.WithListenAddress(inside), meshlite.WithAdvertisedAddress(mapped),
			selfCheck(catalog.NoSelfCheck)}, ""},
		"directed wrongly": {[]meshlite.ServerOption{meshlite.WithListenAddress(inside), meshlite.WithAdvertisedAddress(inside),
			selfCheck(dials(mapped))}, "the SelfCheck of WithRegistration: dial tcp " + mapped},
		"nothing advertised": {[]meshlite.ServerOption{meshlite.WithListenAddress(":0"), meshlite.WithDirectory(nodeAt{m.directory, "240.0.0.1"})},
			"set WithAdvertisedAddress to where clients reach the server"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := &journal{}
			server, err := meshlite.NewServer("catalog", append([]meshlite.ServerOption{
				meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(slog.New(slog.NewJSONHandler(lines, nil))),
				meshlite.WithRuntime(newRuntime(t)), meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, 0),
			}, test.options...)...)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- server.Run(ctx) }()
			want := "serving"
			if test.names != "" {
				want = "cannot start yet: trying again"
			}
			line := lines.await(t, 1, want)[0]
			if text, _ := line["error"].(string); !strings.Contains(text, test.names) {
				t.Errorf("the error is %q, want %q in it", text, test.names)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func selfCheck(check func(context.Context) error) meshlite.ServerOption {
	return meshlite.WithRegistration(catalog.Registration{SelfCheck: check})
}

// dials is a self-check that connects to address.
func dials(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}
