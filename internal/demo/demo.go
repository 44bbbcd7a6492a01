package demo

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meshlite-go/meshlite"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/shop"
	storefrontv1 "github.com/meshlite-go/meshlite/proto/sweetshop/storefront/v1"
)

// The length of the story.
const (
	DefaultDuration = 20 * time.Second
	MinDuration     = 6 * time.Second
	MaxDuration     = time.Hour
)

// Options configure the story.
type Options struct {
	// Duration is about the time from the first call to the last: the story lasts until
	// the last inventory is restarted, which takes some 4 s of its last third.
	Duration time.Duration
	// Registry is which one to use.
	Registry shop.Choice
	// Identity has all of the shop call each other by mutual TLS, as intentions allow it.
	Identity bool
	// Programs is the folder of the service programs. Empty: they are looked for.
	Programs string
	// Progress receives the events, drawn if it is a terminal.
	Progress io.Writer

	slower int  // divides the load, for tests under the race detector; 0 is 1
	polite bool // leaves out the abusive customer, for tests
}

// Check returns an error if an option is invalid.
func (o Options) Check() error {
	if o.Duration < MinDuration || o.Duration > MaxDuration {
		return fmt.Errorf("duration %v is not in %v to %v: write for example --duration=%v", o.Duration, MinDuration, MaxDuration, DefaultDuration)
	}
	return nil
}

// Run plays the story once. The error says why it could not be played; it is ctx's if
// ctx ended. The result says whether the conditions held. Everything that was started
// has ended when Run returns.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	v := newView(o.Progress)
	defer v.close()
	defer context.AfterFunc(ctx, func() { v.event("stopping what was started") })()
	result, err := run(ctx, o, v)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return result, err
}

func run(ctx context.Context, o Options, v view) (*Result, error) {
	allowed, err := contractLimit()
	if err != nil {
		return nil, err
	}
	if err := shop.Installed(o.Programs); err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { v.event(fmt.Sprintf(format, args...)) }
	if o.Identity {
		o.Registry = shop.Consul // the stand-in has no intentions that programs write
		say("identity: every call is over mutual TLS, as intentions allow it")
	}
	registry, err := startRegistry(ctx, o.Registry, say)
	if err != nil {
		return nil, err
	}
	defer registry.Stop()

	trouble := &child.Tail{}
	log := slog.New(slog.NewTextHandler(trouble, &slog.HandlerOptions{Level: slog.LevelWarn}))
	open, err := shop.Open(registry, shop.Options{Dir: o.Programs, Identity: o.Identity, Logger: log})
	if err != nil {
		return nil, err
	}
	defer open.Close()
	s := &story{shop: open, fleet: newFleet(), length: o.Duration, say: say, customerKey: allowed.key}
	defer s.fleet.scraper.close()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	// The abusive customer ignores the refusals' retry delay, so the storefront must refuse it.
	rude, err := ratelimit.New(ratelimit.WithHoldBack(0))
	if err != nil {
		return nil, err
	}
	conn, err := meshlite.NewClient("consul:///storefront",
		open.Security(), meshlite.WithDirectory(open.Directory()), meshlite.WithLogger(log), meshlite.WithRateLimit(rude))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	l := newLoad(storefrontv1.NewStorefrontServiceClient(conn), allowed.key)
	through := newDoor(s.gateway.Address)
	defer through.close()
	l.door = storefrontv1.NewStorefrontServiceClient(through)
	l.slower, l.polite = max(o.slower, 1), o.polite
	if err := perform(ctx, s, l, v); err != nil {
		return nil, err
	}
	result := newResult(registry.Name, s, l, allowed)
	result.trouble = trouble.Last(maxTrouble)
	return result, nil
}

func startRegistry(ctx context.Context, choice shop.Choice, say func(string, ...any)) (*shop.Registry, error) {
	say("starting a registry")
	registry, err := shop.StartRegistry(ctx, choice)
	if err != nil {
		return nil, err
	}
	say("registry: %s at %s", registry.Name, registry.Address)
	if registry.Hint != "" {
		say("  %s", registry.Hint)
	}
	return registry, nil
}

// perform runs the load, the story and the view concurrently.
func perform(ctx context.Context, s *story, l *load, v view) error {
	visitor := metadata.AppendToOutgoingContext(ctx, l.customerKey, "visitor")
	goods, err := look(visitor, l.shop)
	if err != nil {
		return fmt.Errorf("the shop cannot be looked at before the load: %w", err)
	}
	s.fleet.begin(ctx)
	ctx, cancel := context.WithCancel(ctx)
	var side sync.WaitGroup
	defer side.Wait()
	defer cancel()
	l.begin(ctx, goods, s.length)
	side.Go(func() { s.fleet.watch(ctx) })
	side.Go(func() { watch(ctx, v, &observer{load: l, fleet: s.fleet, story: s.length}) })

	err = s.play(ctx, l.start)
	if err != nil {
		cancel() // calls in flight need not end by themselves
	}
	l.finish()
	s.fleet.end(ctx)
	return err
}
