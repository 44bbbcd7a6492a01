package shop

import (
	"syscall"
	"time"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/hosts"
)

// Instance is one process of a service, registered in the registry.
type Instance struct {
	Service    string
	ID         string // in the registry
	Address    string // host:port of its gRPC server
	Metrics    string // host:port of its /metrics
	Registered time.Time
	Host       *hosts.Host // nil for this machine

	args    []string
	process *process
}

// Args are the arguments that it was started with.
func (i *Instance) Args() []string { return i.args }

// Exited is closed when the process has ended.
func (i *Instance) Exited() <-chan struct{} { return i.process.done }

// State is how the process ended: "exit status 1", "signal: killed". Only
// after Exited.
func (i *Instance) State() string { return i.process.cmd.ProcessState.String() }

// LastLines are the last n lines that the process has written.
func (i *Instance) LastLines(n int) string { return i.process.output.Last(n) }

// Kill ends the process as a crash would, and waits.
func (i *Instance) Kill() error {
	err := i.process.signal(syscall.SIGKILL)
	if err == nil {
		<-i.process.done
	}
	return err
}

// Freeze stops the process in its tracks: its connections stay open and nothing
// answers on them. Thaw lets it go on.
func (i *Instance) Freeze() error { return i.process.signal(child.Freeze) }

// Thaw lets a stalled process go on.
func (i *Instance) Thaw() error { return i.process.signal(child.Thaw) }

// Stop ends the process in order and waits; it is killed when that takes longer
// than patience.
func (i *Instance) Stop(patience time.Duration) { i.process.stop(patience) }
