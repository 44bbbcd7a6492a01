package meshlite_test

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/balancer"
)

// The balancer's settings are a Go value; one that cannot work is an error of NewClient.
func TestBalancerSettingsAreAGoValue(t *testing.T) {
	m := newMesh(t)
	m.serve(&shop{name: "a"})
	settings := balancer.DefaultSettings()
	settings.SlowStart.Window = balancer.Duration(30 * time.Second)
	client, _ := m.client("consul:///catalog", meshlite.WithBalancer("peak_ewma", settings))
	if got := get(t, client, "x"); got != "a" {
		t.Errorf("got %q", got)
	}
	settings.Ejection.RequestVolume = 0
	for name, test := range map[string]struct {
		options []meshlite.ClientOption
		want    []string
	}{
		"out of range":    {[]meshlite.ClientOption{meshlite.WithBalancer("", settings)}, []string{"WithBalancer", "ejection.requestVolume 0"}},
		"zero value":      {[]meshlite.ClientOption{meshlite.WithBalancer("", balancer.Settings{})}, []string{"WithBalancer", "DefaultSettings"}},
		"policy of gRPC":  {[]meshlite.ClientOption{meshlite.WithBalancer("grpc:round_robin", balancer.DefaultSettings())}, []string{"WithBalancer", "grpc:round_robin"}},
		"given two times": {[]meshlite.ClientOption{meshlite.WithBalancer("", settings, settings)}, []string{"WithBalancer", "2 settings"}},
		"named elsewhere": {[]meshlite.ClientOption{meshlite.WithBalancer("", balancer.DefaultSettings()), meshlite.WithServiceConfig(`{"loadBalancingConfig": [{"meshlite_round_robin": {}}]}`)},
			[]string{"WithServiceConfig", "WithBalancer"}},
	} {
		t.Run(name, func(t *testing.T) {
			mustExplain(t, test.want, func() error {
				_, err := meshlite.NewClient("consul:///catalog", append(test.options, meshlite.WithPlaintext())...)
				return err
			})
		})
	}
}

// Addr and Ready follow the start of a server.
func TestAServerReportsItsAddressAndThatItIsReady(t *testing.T) {
	m := newMesh(t)
	common := meshlite.Options{meshlite.WithPlaintext(), meshlite.WithDirectory(m.directory), meshlite.WithLogger(silent), meshlite.WithRuntime(newRuntime(t))}
	server, err := meshlite.NewServer("catalog", common, tagged("sweets"), meshlite.WithDrain(0, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if server.Addr() != nil {
		t.Errorf("before Run it listens on %v", server.Addr())
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	<-server.Ready()
	for _, name := range []string{"catalog", "sweets"} {
		if got := m.instances(name); len(got) != 1 || got[0] != server.Addr().String() {
			t.Errorf("%s is registered at %v, it listens on %v", name, got, server.Addr())
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// SIGTERM ends the context of SignalContext, and Run does not take signals by itself.
func TestSignalContextEndsWithSIGTERM(t *testing.T) {
	ctx := meshlite.SignalContext()
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(syscall.SIGTERM)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !strings.Contains(err.Error(), "terminated") {
		t.Errorf("the cause is %v", err)
	}
}

// A nil logger is slog.Default() on both sides.
func TestANilLoggerIsTheDefault(t *testing.T) {
	common := meshlite.Options{meshlite.WithPlaintext(), meshlite.WithLogger(nil)}
	conn, err := meshlite.NewClient("dns:///localhost:1", common)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := meshlite.NewServer("catalog", common); err != nil {
		t.Error(err)
	}
}
