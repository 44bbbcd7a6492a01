package shop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/hosts"
	"github.com/meshlite-go/meshlite/resolver/consul"
)

const (
	startTimeout = 20 * time.Second // of one instance, which itself waits 10 s for the registry
	stopTimeout  = 5 * time.Second  // after which an instance is killed
	startTries   = 3                // a free port may be taken before it is used
)

// Options configure the shop. The zero value is the usual one.
type Options struct {
	// Dir has the programs. Empty: beside this program, in .bin, on PATH.
	Dir string
	// Identity has all call each other by mutual TLS with certificates of Consul's CA, as
	// intentions allow it, which Open writes. It needs a real Consul.
	Identity bool
	// Logger receives errors of the registry. Nil discards them.
	Logger *slog.Logger
}

// Shop are the running instances. It is safe for concurrent use.
type Shop struct {
	directory *consul.Directory
	registry  *Registry
	programs  programs
	book      *book
	mutual    *identity.Credentials // of customers; nil is plaintext

	mu        sync.Mutex
	processes []*process // all that were started
	closed    bool
}

// Open finds the programs and follows the registry. Nothing is started yet.
func Open(registry *Registry, options Options) (*Shop, error) {
	found, err := findPrograms(options.Dir)
	if err != nil {
		return nil, err
	}
	log := options.Logger
	if log == nil {
		log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	directory, err := consul.New(consul.Config{Address: registry.Address, Transport: registry.Transport, Logger: log})
	if err != nil {
		return nil, err
	}
	s := &Shop{directory: directory, registry: registry, programs: found, book: openBook(directory, services)}
	if options.Identity {
		if err := s.identify(log); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Directory is the registry as clients of the shop see it.
func (s *Shop) Directory() *consul.Directory { return s.directory }

// Close stops every instance and waits for all. The registry is its owner's.
func (s *Shop) Close() {
	s.mu.Lock()
	s.closed = true
	processes := s.processes
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range processes {
		all.Go(func() { p.stop(stopTimeout) })
	}
	all.Wait()
	s.book.close()
	if s.mutual != nil {
		s.mutual.Close()
	}
	s.directory.Close()
}

// Start runs one more instance of a service and waits until the registry lists it as
// passing. The error has the last lines that the process wrote.
func (s *Shop) Start(ctx context.Context, service string, args ...string) (*Instance, error) {
	return s.StartOn(ctx, nil, service, args...)
}

// StartOn is Start on a host of its own, which must reach the registry.
func (s *Shop) StartOn(ctx context.Context, host *hosts.Host, service string, args ...string) (*Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for try := 1; ; try++ {
		instance, err := s.start(ctx, host, service, args)
		if err == nil || try == startTries || !errors.Is(err, errPortTaken) {
			return instance, err
		}
	}
}

var errPortTaken = errors.New("its port was taken")

func (s *Shop) start(ctx context.Context, host *hosts.Host, service string, args []string) (*Instance, error) {
	ports, err := freeport.Ports(1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	return s.startAt(ctx, host, service, net.JoinHostPort(host.Address(), strconv.Itoa(ports[0])), args)
}

func (s *Shop) startAt(ctx context.Context, host *hosts.Host, service, address string, args []string) (*Instance, error) {
	p, err := s.launch(host, service, address, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	e, registered := s.book.await(ctx, address, p.done)
	if registered {
		return &Instance{
			Service: service, ID: e.ID, Address: address, Metrics: e.Metadata["metrics_address"], Registered: e.since,
			Host: host, args: args, process: p,
		}, nil
	}
	return nil, s.startError(ctx, service, p)
}

// StartAt is Start at an address at which an instance was before, as on a machine whose unit is
// restarted. It waits until the registry no longer lists that one.
func (s *Shop) StartAt(ctx context.Context, service, address string, args ...string) (*Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if !s.book.awaitGone(ctx, address) {
		return nil, fmt.Errorf("%s did not start: the registry lists another at %s", service, address)
	}
	return s.startAt(ctx, nil, service, address, args)
}

// startError ends an instance that did not register, and returns why it did not.
func (s *Shop) startError(ctx context.Context, service string, p *process) error {
	why := errors.New("it ended")
	if !p.ended() {
		why = fmt.Errorf("it did not register in %v", startTimeout)
		p.stop(stopTimeout)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	output := p.output.Last(5)
	if strings.Contains(output, "another program listens there") {
		why = errPortTaken
	}
	return fmt.Errorf("%s did not start: %w (%v); it said:\n%s", service, why, p.cmd.ProcessState, output)
}

func (s *Shop) launch(host *hosts.Host, service, address string, args []string) (*process, error) {
	listen := address
	if host == nil { // of the address of the agent's node, which Consul has
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		listen = port
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the shop is closed")
	}
	if service == Gateway { // it reads no PORT
		args = append([]string{"--listen", address, "--register"}, append(s.gatewaySecurity(), args...)...)
	} else if s.mutual != nil {
		args = append([]string{"--identity"}, args...)
	}
	p, err := startProcess(host, s.programs[service], args, s.environment(listen))
	if err == nil {
		s.processes = append(slices.DeleteFunc(s.processes, (*process).ended), p)
	}
	return p, err
}

// environment is ours without the variables of another Consul.
func (s *Shop) environment(listen string) []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "CONSUL_") || strings.HasPrefix(variable, "PORT=")
	})
	return append(env, "CONSUL_HTTP_ADDR="+s.registry.Address, "PORT="+listen)
}
