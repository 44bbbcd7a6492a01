package shop

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

// behave is the variable that makes this test binary a service of the shop.
const behave = "SHOP_TEST_BEHAVE"

func TestMain(m *testing.M) {
	if how := os.Getenv(behave); how != "" {
		if err := beService(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_SSL"} {
		os.Unsetenv(name)
	}
	goleak.VerifyTestMain(m)
}

// beService is a service with the faults that its environment names.
func beService(how string) error {
	service := filepath.Base(os.Args[0])
	switch how {
	case "fail":
		return fmt.Errorf("first line\n%s: sugar is out", service)
	case "taken once":
		mark := filepath.Join(filepath.Dir(os.Args[0]), "taken")
		if _, err := os.Stat(mark); err != nil {
			os.WriteFile(mark, nil, 0o600)
			return fmt.Errorf("another program listens there")
		}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	if how == "stubborn" {
		stop, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	}
	defer cancel()
	if how == "silent" {
		<-stop.Done()
		return nil
	}
	directory, err := consul.New(consul.Config{})
	if err != nil {
		return err
	}
	lease, err := directory.Register(context.Background(), catalog.Registration{Instance: catalog.Instance{
		ID: service + "-" + os.Getenv("PORT"), Service: service, Address: "127.0.0.1:" + os.Getenv("PORT"),
		Metadata: map[string]string{"metrics_address": "127.0.0.1:1", "token": os.Getenv("CONSUL_HTTP_TOKEN"), "args": fmt.Sprint(os.Args[1:])},
	}, TTL: time.Minute, SelfCheck: catalog.NoSelfCheck}) // nobody listens there: a check would fail
	if err != nil {
		return err
	}
	<-stop.Done()
	return lease.Deregister(context.Background())
}

// open gives a shop whose programs are this test binary, with the given faults.
func open(t *testing.T, how string) *Shop {
	t.Helper()
	t.Setenv(behave, how)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or each of them ends a second late
	registry, err := StartRegistry(t.Context(), Embedded)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Stop)
	s, err := Open(registry, Options{Dir: programsDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func programsDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range services {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// alive reports whether there is a process of that id.
func alive(pid int) bool { return child.Alive(pid) }
