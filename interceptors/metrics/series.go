package metrics

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/interceptors"
	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// bytesBuckets end at gRPC's default limit for received messages.
var bytesBuckets = []float64{128, 1 << 10, 8 << 10, 64 << 10, 512 << 10, 4 << 20}

// newCalls makes the collectors of one side.
func newCalls(r *registration, c *config, side interceptors.Side, seen *names) *calls {
	prefix := "grpc_" + side.String() + "_"
	labels := c.labelNames("grpc_type", "grpc_service", "grpc_method")
	counter := func(name, help string, labels []string) *prometheus.CounterVec {
		return register(r, prefix+name, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels))
	}
	histogram := func(name, help string, buckets []float64, labels []string) *prometheus.HistogramVec {
		return register(r, name, prometheus.NewHistogramVec(histogramOpts(name, help, buckets), labels))
	}
	byClass := c.labelNames("grpc_type", "grpc_service", "grpc_method", "code_class")
	made := &calls{
		side: side, labels: c.labels, names: seen,
		methods:  rpc.Table[methodKey, *method]{Max: maxEntries},
		started:  counter("started_total", "Calls begun.", labels),
		handled:  counter("handled_total", "Calls ended, by code.", c.labelNames("grpc_type", "grpc_service", "grpc_method", "grpc_code", "code_class")),
		received: counter("msg_received_total", "Messages received.", labels),
		sent:     counter("msg_sent_total", "Messages sent.", labels),
		inFlight: register(r, prefix+"in_flight", prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "in_flight", Help: "Calls begun and not ended."}, labels)),
		receivedBytes: histogram(prefix+"msg_received_bytes", "Size of messages received, before compression.", bytesBuckets, labels),
		sentBytes:     histogram(prefix+"msg_sent_bytes", "Size of messages sent, before compression.", bytesBuckets, labels),
		seconds:       histogram(prefix+"handling_seconds", "Time from the begin of a call to its end.", c.buckets, byClass),
	}
	if side == interceptors.Server {
		made.handler = histogram("meshlite_handler_seconds",
			"Time that handlers took, without what the cache answered and limits refused.", c.buckets, byClass)
		made.callers = newCallers(r)
	}
	return made
}

// histogramOpts make a native histogram for a Prometheus that asks for one, with
// buckets that are a tenth apart and 160 at most, and a classic one for all others.
func histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

const (
	// maxUnlinked caps the methods outside of linked contracts that are counted
	// by name.
	maxUnlinked = 256
	// maxEntries caps what is kept for methods and events. It is far above what linked
	// contracts and maxUnlinked add up to in any real program.
	maxEntries = 16384
	// maxName keeps a made-up name from filling the memory by itself.
	maxName = 256
	other   = "other"
)

// names decides by which labels a method is counted.
type names struct {
	unlinked rpc.Table[string, struct{}]
}

// of returns what fullMethod is counted as: itself, or "other". A method that only an
// unknown-service handler receives is made up by a peer, unless a contract has it.
func (n *names) of(side interceptors.Side, fullMethod string, served bool) *interceptors.CallMeta {
	service, method := rpc.SplitMethod(fullMethod)
	meta := &interceptors.CallMeta{
		Side: side, FullMethod: fullMethod, Service: service, Method: method,
		Descriptor: linked(service, method),
		Policy:     &policyv1.MethodPolicy{},
	}
	if meta.Descriptor == nil && (!served || !n.admit(fullMethod)) {
		meta.FullMethod, meta.Service, meta.Method = other, other, other
	}
	return meta
}

func (n *names) admit(fullMethod string) bool {
	if len(fullMethod) > maxName || !utf8.ValidString(fullMethod) {
		return false
	}
	_, admitted := n.unlinked.Of(fullMethod, func() struct{} { return struct{}{} })
	return admitted
}

// linked finds the method in the contracts of this program; nil is none.
func linked(service, method string) protoreflect.MethodDescriptor {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	if descriptor, ok := found.(protoreflect.ServiceDescriptor); ok {
		return descriptor.Methods().ByName(protoreflect.Name(method))
	}
	return nil
}

// registration registers collectors until one is refused.
type registration struct {
	registerer prometheus.Registerer
	added      []prometheus.Collector
	err        error
}

// register adds c, or returns the equal collector that is there already.
func register[C prometheus.Collector](r *registration, name string, c C) C {
	if r.err != nil {
		return c
	}
	err := r.registerer.Register(c)
	if err == nil {
		r.added = append(r.added, c)
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
		err = fmt.Errorf("a %T of that name is registered", already.ExistingCollector)
	}
	r.err = fmt.Errorf("metrics: %s: %w: give WithRegisterer another registerer, or remove the other collector", name, err)
	return c
}

// undo unregisters what was added before the refusal.
func (r *registration) undo() {
	for _, c := range r.added {
		r.registerer.Unregister(c)
	}
}
