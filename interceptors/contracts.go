package interceptors

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/internal/weakset"
)

// Contracts are contracts that a program reads while it runs, such as a gateway by
// reflection. [WithContracts] makes them the lowest layer of [Policies], below what is
// written in Go and by the operator. A method of theirs replaces a linked one of the same
// name, since the server offers this one now; gRPC's own services keep the linked ones.
// The zero value has none. It is safe for concurrent use and must not be copied.
type Contracts struct {
	mu        sync.Mutex // of current, and for changing the policies that follow
	current   *live
	followers weakset.Set[Policies]
}

// live are the methods of read contracts, by full method. It is immutable; nil has none.
type live struct{ methods map[string]contract }

func (l *live) contract(fullMethod string) (contract, bool) {
	if l == nil {
		return contract{}, false
	}
	found, ok := l.methods[fullMethod]
	return found, ok
}

// service finds a service by name, nil if no contract has it. What has that name and is no
// service counts as one without methods.
func (l *live) service(name string) (methods protoreflect.MethodDescriptors, found bool) {
	if l != nil {
		for _, c := range l.methods {
			if parent, ok := c.method.Parent().(protoreflect.ServiceDescriptor); ok && string(parent.FullName()) == name {
				return parent.Methods(), true
			}
		}
	}
	linked, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, false
	}
	if service, ok := linked.(protoreflect.ServiceDescriptor); ok {
		return service.Methods(), true
	}
	return nil, true
}

// PoliciesOption changes what [NewPolicies] makes.
type PoliciesOption func(*Policies)

// WithContracts puts contracts below the other layers. Chains follow a change of theirs
// with their next call.
func WithContracts(contracts *Contracts) PoliciesOption {
	return func(p *Policies) { p.live = contracts }
}

// Set replaces all contracts by the services in files; nil has none. Policies follow at
// once. If a rule in files is invalid, or the effective policy of a method in some
// [Policies] would be, nothing changes: the error names the method, the field and the fix.
func (c *Contracts) Set(files *protoregistry.Files) error {
	next, err := readLive(files)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	followers := c.followers.All()
	changed := make([]*layers, len(followers))
	for i, p := range followers {
		above := *p.current.Load()
		above.live = next
		if err := p.checkAll(&above, slices.Sorted(maps.Keys(next.methods))); err != nil {
			return fmt.Errorf("contract with the policy above it: %w", err)
		}
		changed[i] = &above
	}
	c.current = next
	for i, p := range followers {
		p.put(changed[i])
	}
	return nil
}

// readLive reads the services in files, without gRPC's own.
func readLive(files *protoregistry.Files) (*live, error) {
	if files == nil {
		return &live{}, nil
	}
	methods, err := readContracts(files)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(methods, func(_ string, c contract) bool { return Infrastructure(string(c.method.Parent().FullName())) })
	return &live{methods}, nil
}

// follow adds p to those that follow c, from current layers on.
func (c *Contracts) follow(p *Policies) { c.followers.Add(p) }

// Followers are the policies that have c below them and are in use, in no order: those of
// channels, for instance.
func (c *Contracts) Followers() []*Policies { return c.followers.All() }

// Version is equal to an earlier one, by ==, as long as [Policies.Call] returns the same.
func (p *Policies) Version() any { return p.current.Load() }

// checkAll checks the effective policies of methods.
func (p *Policies) checkAll(above *layers, methods []string) error {
	var errs []error
	for _, name := range methods {
		if err := checkFields(p.call(above, Server, name), above.live); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", strings.TrimPrefix(name, "/"), err))
		}
	}
	return join(errs)
}

// extensionOf returns what options have of an extension that this program is linked with,
// although they may have been parsed with other types.
func extensionOf[T proto.Message](options protoreflect.ProtoMessage, extension protoreflect.ExtensionType) T {
	var none T
	text, err := proto.Marshal(options)
	if err != nil || len(text) == 0 {
		return none
	}
	parsed := options.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(text, parsed); err != nil || !proto.HasExtension(parsed, extension) {
		return none
	}
	value, _ := proto.GetExtension(parsed, extension).(T)
	return value
}
