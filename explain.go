package meshlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/meshlite-go/meshlite/balancer/attempt"
	"github.com/meshlite-go/meshlite/balancer/routes"
	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/interceptors/cache"
	"github.com/meshlite-go/meshlite/interceptors/mirror"
	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/interceptors/retry"
	"github.com/meshlite-go/meshlite/internal/explain"
	"github.com/meshlite-go/meshlite/internal/weakset"
	"github.com/meshlite-go/meshlite/resolver"
)

// channel is what explains the calls of one channel to a service. It is the builder of the
// channel's resolver, and so lives as long as the channel: a runtime does not keep it.
type channel struct {
	*resolver.Builder
	target   string
	service  string
	policies *interceptors.Policies
	router   *routes.Router // nil without routing
	mirror   *mirror.Mirror
	retry    *retry.Retry
	cache    *cache.Scoped
	limiter  *ratelimit.Limiter
	off      []kill
	identity *identity.Credentials // nil without
}

// channels are those of a runtime.
type channels struct{ weakset.Set[channel] }

// hypotheticalCall is a call that is not made.
type hypotheticalCall struct {
	ctx     context.Context // with its outgoing metadata
	meta    *interceptors.CallMeta
	request proto.Message // nil without a contract
}

// maxListed caps the targets and methods that an error names.
const maxListed = 20

// explain is the action of the admin page.
func (cs *channels) explain(ctx context.Context, values url.Values) (any, error) {
	if err := checkExplain(values); err != nil {
		return nil, err
	}
	md, err := metadataOf(values[explain.Metadata])
	if err != nil {
		return nil, err
	}
	found, err := cs.to(values.Get(explain.Target))
	if err != nil {
		return nil, err
	}
	call := hypotheticalCall{ctx: metadata.NewOutgoingContext(ctx, md)}
	c := connected(call.ctx, found)
	if call.meta, err = c.method(values.Get(explain.Method)); err != nil {
		return nil, err
	}
	if call.request, err = requestOf(call.meta, values.Get(explain.Data)); err != nil {
		return nil, err
	}
	e := &explain.Explanation{Target: c.target, Channels: len(found), Method: strings.TrimPrefix(call.meta.FullMethod, "/"), Notes: []string{}}
	c.explain(&call, e)
	return e, nil
}

func checkExplain(values url.Values) error {
	for key, given := range values {
		switch {
		case !slices.Contains([]string{explain.Target, explain.Method, explain.Metadata, explain.Data}, key):
			return fmt.Errorf("unknown value %q: write target, method, metadata or data", key)
		case key != explain.Metadata && len(given) != 1:
			return fmt.Errorf("%s is given %d times: write it once", key, len(given))
		}
	}
	switch {
	case values.Get(explain.Target) == "":
		return errors.New("target is empty: write consul:///service")
	case len(values.Get(explain.Method)) > explain.MaxMethod:
		return fmt.Errorf("method has %d bytes, and at most %d are read: write package.Service/Method", len(values.Get(explain.Method)), explain.MaxMethod)
	case len(values.Get(explain.Data)) > explain.MaxData:
		return fmt.Errorf("data has %d bytes, and at most %d are read: leave it out, and the state of the cache is not explained", len(values.Get(explain.Data)), explain.MaxData)
	}
	return nil
}

func metadataOf(pairs []string) (metadata.MD, error) {
	if len(pairs) > explain.MaxMetadata {
		return nil, fmt.Errorf("%d pairs of metadata, and at most %d are read: leave out those that no route matches", len(pairs), explain.MaxMetadata)
	}
	md, size := metadata.MD{}, 0
	for i, pair := range pairs {
		key, value, found := strings.Cut(pair, ":")
		if !found || key == "" {
			return nil, fmt.Errorf("metadata %d: write key:value", i+1) // not shown: it may be secret
		}
		if size += len(pair); size > explain.MaxMetadataBytes {
			return nil, fmt.Errorf("metadata has more than %d bytes: leave out what no route matches", explain.MaxMetadataBytes)
		}
		md.Append(key, value)
	}
	return md, nil
}

// to returns the channels to a target as it is written, or else to the service that it names.
func (cs *channels) to(target string) ([]*channel, error) {
	all := cs.All()
	found := matching(all, func(c *channel) bool { return c.target == target })
	if len(found) == 0 {
		if parsed, err := resolver.ParseTarget(target); err == nil {
			found = matching(all, func(c *channel) bool { return c.service == parsed.Service })
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	targets := map[string]bool{}
	for _, c := range all {
		targets[c.target] = true
	}
	if len(targets) == 0 {
		return nil, errors.New("the client has no channel to a service in a directory")
	}
	return nil, fmt.Errorf("the client has no channel to %q: it has %s", resolver.Redact(target), listed(slices.Sorted(maps.Keys(targets))))
}

func matching(all []*channel, is func(*channel) bool) (some []*channel) {
	for _, c := range all {
		if is(c) {
			some = append(some, c)
		}
	}
	return some
}

func listed(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// connected returns a channel with connections, or else any. One that is closed and not collected
// yet has none.
func connected(ctx context.Context, all []*channel) *channel {
	for _, c := range all {
		if c.router != nil && !c.router.Explain(ctx, "").Idle {
			return c
		}
	}
	return all[0]
}

// method is the method of that name, with its policy, as calls have it.
func (c *channel) method(name string) (*interceptors.CallMeta, error) {
	name = strings.TrimPrefix(name, "/")
	service, method, found := strings.Cut(name, "/")
	if !found || service == "" || method == "" || strings.Contains(method, "/") {
		return nil, fmt.Errorf("method %q: write package.Service/Method", name)
	}
	meta := c.policies.Call(interceptors.Client, "/"+name)
	if meta.Descriptor != nil {
		return meta, nil
	}
	if known := c.policies.MethodsOf(service); len(known) > 0 {
		return nil, fmt.Errorf("method %q: the contract of %s has no such method: write one of %s", name, service, listed(known))
	}
	return meta, nil
}

// requestOf reads data. Without data the request is empty, and without a contract nil.
func requestOf(meta *interceptors.CallMeta, data string) (proto.Message, error) {
	if meta.Descriptor == nil {
		if data != "" {
			return nil, fmt.Errorf("data: the client has no contract of %s: leave data out", strings.TrimPrefix(meta.FullMethod, "/"))
		}
		return nil, nil
	}
	request := newMessage(meta.Descriptor.Input())
	if data == "" {
		return request, nil
	}
	if err := protojson.Unmarshal([]byte(data), request); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return request, nil
}

// newMessage has the linked type if there is one: functions of the program expect it.
func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	if linked, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil && linked.Descriptor() == d {
		return linked.New().Interface()
	}
	return dynamicpb.NewMessage(d)
}

func (c *channel) explain(call *hypotheticalCall, e *explain.Explanation) {
	e.Contract, e.Policy = contractOf(call.meta), c.policies.Fields(call.meta)
	e.Timeout = float64(call.meta.Timeout()) / float64(time.Millisecond)
	var adds *attempt.Retry
	if c.router == nil {
		e.Notes = append(e.Notes, "endpoints are not known here without routing: see `meshlite endpoints --picks`")
		e.Routing = routes.Explanation{Routes: []routes.Verdict{}, Arms: []routes.ArmExplanation{}}
	} else {
		e.Routing = c.router.Explain(call.ctx, call.meta.FullMethod)
		adds = routes.RetryOf(e.Routing.Retry)
	}
	e.Retry = c.retry.Plan(call.meta, adds)
	e.Cache = c.cached(call, &e.Routing)
	e.Mirror = mirror.PlanOf(call.meta)
	e.Limits = c.limiter.Explain(call.ctx, call.meta, call.request)
	e.Identity, e.Intentions = c.identities(&e.Routing), []explain.Intention{}
	for _, k := range c.off {
		e.Notes = append(e.Notes, fmt.Sprintf("MESHLITE_DISABLE turns %s off", k.name))
	}
	if !e.Contract.Known {
		e.Notes = append(e.Notes, "the client has no contract of the method: policies of the contract, and what depends on the request, are not explained")
	}
}

// identities are that of the client, and those that the servers must prove where the call may go.
func (c *channel) identities(routing *routes.Explanation) *explain.Identity {
	if c.identity == nil {
		return nil
	}
	own := c.identity.Stats()
	i := &explain.Identity{Service: own.Service, ID: own.ID, Error: own.Error, Servers: []explain.Server{}}
	known := map[explain.Server]bool{}
	add := func(service, datacenter string) {
		server := explain.Server{Service: service}
		if id, err := c.identity.ServerID(service, datacenter); err != nil {
			server.Error = err.Error()
		} else {
			server.ID = id.String()
		}
		if !known[server] {
			known[server] = true
			i.Servers = append(i.Servers, server)
		}
	}
	for _, arm := range routing.Arms {
		for _, target := range arm.Targets {
			parts := strings.Split(target.Destination, "/") // datacenter, service, subset
			switch {
			case target.Share == 0:
			case len(parts) != 3:
				add(c.service, "")
			case parts[0] == routing.Datacenter:
				add(parts[1], "")
			default:
				add(parts[1], parts[0])
			}
		}
	}
	return i
}

// cached is what the cache has for a call, by the destinations where it may go.
func (c *channel) cached(call *hypotheticalCall, routing *routes.Explanation) []cache.Standing {
	if routing.Index == 0 {
		return []cache.Standing{c.cache.Explain(call.ctx, call.meta, c.target, call.request)}
	}
	all := []cache.Standing{}
	known := map[string]bool{}
	for _, arm := range routing.Arms {
		for _, target := range arm.Targets {
			if target.Share == 0 || known[target.Destination] {
				continue
			}
			known[target.Destination] = true
			record := attempt.New()
			record.SetRoute(&attempt.Route{Destination: target.Destination})
			all = append(all, c.cache.Explain(attempt.NewContext(call.ctx, record), call.meta, c.target, call.request))
		}
	}
	return all
}

func contractOf(meta *interceptors.CallMeta) explain.Contract {
	c := explain.Contract{Known: meta.Descriptor != nil, Cacheable: meta.Cacheable(), Retryable: meta.Retryable()}
	if !c.Known {
		return c
	}
	switch d := meta.Descriptor; {
	case d.IsStreamingClient() && d.IsStreamingServer():
		c.Kind = "stream of both"
	case d.IsStreamingClient():
		c.Kind = "client stream"
	case d.IsStreamingServer():
		c.Kind = "server stream"
	default:
		c.Kind = "unary"
	}
	return c
}
