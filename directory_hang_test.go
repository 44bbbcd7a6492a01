package meshlite_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/resolver/catalog"
)

// unheeding is a directory that does at its start what a test says, whatever its context.
type unheeding struct {
	meshlite.Directory
	register, node func()
	returned       chan struct{} // a lease was given back
}

func (d *unheeding) Register(context.Context, catalog.Registration) (catalog.Lease, error) {
	d.register()
	return returnedLease{d.returned}, nil
}

func (d *unheeding) NodeAddress(context.Context) (string, error) {
	d.node()
	return "127.0.0.1", nil
}

type returnedLease struct{ returned chan struct{} }

func (l returnedLease) Deregister(context.Context) error { close(l.returned); return nil }

// G6: Run ends when it is asked to though the directory hangs while it starts; what the
// directory registers afterwards is given back. A panic is an error of the start.
func TestRunEndsThoughTheDirectoryHangsAtItsStart(t *testing.T) {
	m := newMesh(t)
	nothing := func() {}
	for name, test := range map[string]struct {
		register, node bool
		panics         bool
	}{
		"Register hangs": {register: true}, "NodeAddress hangs": {node: true},
		"Register panics": {register: true, panics: true}, "NodeAddress panics": {node: true, panics: true},
	} {
		t.Run(name, func(t *testing.T) {
			entered, release := make(chan struct{}, 100), make(chan struct{})
			fault := func() {
				entered <- struct{}{}
				if test.panics {
					panic("out of paper")
				}
				<-release
			}
			d := &unheeding{m.directory, nothing, nothing, make(chan struct{})}
			if test.register {
				d.register = fault
			} else {
				d.node = fault
			}
			lines := &journal{}
			server, err := meshlite.NewServer("catalog", meshlite.WithPlaintext(), meshlite.WithDirectory(d), meshlite.WithRuntime(newRuntime(t)),
				meshlite.WithMetricsAddress(""), meshlite.WithDrain(0, 0), meshlite.WithLogger(slog.New(slog.NewJSONHandler(lines, nil))))
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- server.Run(ctx) }()
			<-entered
			if test.panics {
				line := lines.await(t, 1, "cannot start yet: trying again")[0]
				if text, _ := line["error"].(string); !strings.Contains(text, "has panicked: out of paper") {
					t.Errorf("the error is %q", text)
				}
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("Run answers %v", err)
			}
			if !test.panics {
				lines.await(t, 1, "does not end: it is left running")
			}
			close(release)
			if test.register && !test.panics {
				<-d.returned
			}
		})
	}
}
