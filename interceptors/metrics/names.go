package metrics

import (
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/interceptors"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const (
	// maxUnlinked caps the methods outside of linked contracts that are counted
	// by name.
	maxUnlinked = 256
	// maxName keeps a made-up name from filling the memory by itself.
	maxName = 256
	other   = "other"
)

// names decides by which labels a method is counted.
type names struct {
	mu       sync.Mutex
	unlinked map[string]struct{}
}

// of is what fullMethod is counted as: itself, or "other". A method that is not served
// but comes to an unknown-service handler is made up by a peer, unless a contract has it.
func (n *names) of(side interceptors.Side, fullMethod string, served bool) *interceptors.CallMeta {
	service, method := split(fullMethod)
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
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, seen := n.unlinked[fullMethod]; seen {
		return true
	}
	if len(n.unlinked) >= maxUnlinked {
		return false
	}
	if n.unlinked == nil {
		n.unlinked = map[string]struct{}{}
	}
	n.unlinked[fullMethod] = struct{}{}
	return true
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

// split cuts "/service/method"; a name without a slash is all method.
func split(fullMethod string) (service, method string) {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}
