package chaos

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/meshlite-go/meshlite/internal/child"
	"github.com/meshlite-go/meshlite/internal/hosts"
)

// Options select the faults. The zero value is all faults, at full length, without
// progress.
type Options struct {
	// Short leaves out some faults and shortens others, to less than a minute.
	Short bool
	// Only names the faults to make, in their order, whatever Short leaves out.
	Only []string
	// Programs is the folder of the service programs. Empty: they are looked for.
	Programs string
	// Progress receives the events. Nil discards them.
	Progress io.Writer
}

// Check returns an error if an option is invalid.
func (o Options) Check() error {
	_, err := choose(o.Short, o.Only)
	return err
}

// Description is a fault in words.
type Description struct{ Name, Does, Healed, Aim string }

// Faults are all that can be made.
func Faults() []Description {
	var all []Description
	for _, r := range rows() {
		all = append(all, Description{r.name, r.does, r.wanted, r.aim.String()})
	}
	return all
}

// Run makes the faults, one after the other. The error says why one could not be
// made; it is that of ctx when ctx has ended. Whether the aims were reached is in
// the result. Everything that was started has ended when Run returns.
func Run(ctx context.Context, o Options) (*Result, error) {
	chosen, err := choose(o.Short, o.Only)
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	shown := newBoard(o.Progress)
	defer shown.close()
	defer context.AfterFunc(ctx, func() { shown.say("stopping what was started") })()
	result, err := run(ctx, o, chosen, shown)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return result, err
}

func run(ctx context.Context, o Options, chosen []row, shown *board) (*Result, error) {
	p, err := findParts(o.Programs)
	if err != nil {
		return nil, err
	}
	m := &meshes{parts: p, shown: shown, trouble: &child.Tail{}}
	defer m.close()
	looking, cancel := context.WithCancel(ctx)
	var side sync.WaitGroup
	defer side.Wait()
	defer cancel()
	side.Go(func() { shown.watch(looking) })

	result := &Result{Registry: "consul " + p.version, Rate: rate}
	for _, r := range chosen {
		f, err := m.play(ctx, r, o.Short)
		if f.Name == "" {
			return nil, err
		}
		result.Faults = append(result.Faults, f)
		if err != nil {
			break // the mesh is broken: later rows would measure nothing
		}
	}
	result.trouble = m.trouble.Last(maxTrouble)
	return result, nil
}

// meshes are those of a run, each opened for the first row that needs it.
type meshes struct {
	parts       parts
	shown       *board
	trouble     *child.Tail
	here, apart *mesh // on this machine, and on hosts of their own
}

// play makes one fault, or says that it is skipped. The error is that of [mesh.play].
func (m *meshes) play(ctx context.Context, r row, short bool) (Fault, error) {
	place, at := &m.here, (*site)(nil)
	if r.needs.hosts {
		place = &m.apart
	}
	if *place == nil {
		var err error
		if r.needs.hosts {
			if at, err = openSite(); errors.Is(err, hosts.ErrUnsupported) {
				m.shown.say("SKIPPED: %s: %v", r.name, err)
				return Fault{Name: r.name, Does: r.does, Healed: r.wanted, Aim: r.aim.String(), Missed: []string{}, Skipped: err.Error()}, nil
			} else if err != nil {
				return Fault{}, err
			}
		}
		if *place, err = openMesh(ctx, m.parts, at, m.trouble, m.shown.say); err != nil {
			return Fault{}, err
		}
	}
	return (*place).play(ctx, r, short, m.shown)
}

func (m *meshes) close() {
	for _, opened := range []*mesh{m.here, m.apart} {
		if opened != nil {
			opened.close()
		}
	}
}

const maxTrouble = 10 // lines
