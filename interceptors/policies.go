package interceptors

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/meshlite-go/meshlite/internal/rpc"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Policies has the effective policy of every method: that of the contract, overridden by
// the program's, overridden by the operator's. It is safe for concurrent use.
type Policies struct {
	contracts map[string]contract // linked, by full method
	live      *Contracts          // nil is none
	mu        *sync.Mutex         // for changing current: that of live, if there is one
	current   atomic.Pointer[layers]
}

// layers are the contracts that were read and the policies above. A pointer to them is also
// the version of the policy: whatever was derived from other layers is out of date.
type layers struct {
	live              *live
	builder, operator *policyv1.ServicePolicy
	replaced          chan struct{} // closed when others are in force
}

// contract is what a contract says of a method.
type contract struct {
	method  protoreflect.MethodDescriptor
	service *policyv1.ServicePolicy
	policy  *policyv1.MethodPolicy
}

// NewPolicies reads the contracts that this program is linked with and puts
// builder, the policy written in Go, above them; nil is none. The error names
// the field that is wrong, the value and the fix.
func NewPolicies(builder *policyv1.ServicePolicy, options ...PoliciesOption) (*Policies, error) {
	contracts, err := readContracts(protoregistry.GlobalFiles)
	if err != nil {
		return nil, err
	}
	p := &Policies{contracts: contracts, mu: &sync.Mutex{}}
	for _, option := range options {
		option(p)
	}
	first := &layers{builder: clone(builder)}
	if p.live != nil {
		p.mu = &p.live.mu
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live != nil {
		first.live = p.live.current
	}
	if err := p.set(first, builder); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if p.live != nil {
		p.live.follow(p)
	}
	return p, nil
}

// SetOperator replaces the policy that the operator has written; nil removes
// it. Chains follow with their next call. On an error nothing changes.
func (p *Policies) SetOperator(operator *policyv1.ServicePolicy) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := *p.current.Load()
	next.operator = clone(operator)
	if err := p.set(&next, operator); err != nil {
		return fmt.Errorf("operator's policy: %w", err)
	}
	return nil
}

// set makes next the policy if changed, the new part of it, is valid and every method of
// a contract permits what next says of it. The caller holds p.mu.
func (p *Policies) set(next *layers, changed *policyv1.ServicePolicy) error {
	all := p.all(next)
	if err := check(changed, all); err != nil {
		return err
	}
	if err := p.checkAll(next, slices.Sorted(maps.Keys(all))); err != nil {
		return err
	}
	p.put(next)
	return nil
}

// put makes next the layers in force. The caller holds p.mu.
func (p *Policies) put(next *layers) {
	next.replaced = make(chan struct{})
	if last := p.current.Swap(next); last != nil {
		close(last.replaced)
	}
}

// all are the contracts of every method.
func (p *Policies) all(above *layers) map[string]contract {
	if above.live == nil {
		return p.contracts
	}
	all := maps.Clone(p.contracts)
	maps.Copy(all, above.live.methods)
	return all
}

// Call returns a new CallMeta of fullMethod on side, to be kept for all calls.
func (p *Policies) Call(side Side, fullMethod string) *CallMeta {
	return p.call(p.current.Load(), side, fullMethod)
}

func (p *Policies) call(above *layers, side Side, fullMethod string) *CallMeta {
	service, method := rpc.SplitMethod(fullMethod)
	known := p.contract(above, fullMethod)
	meta := &CallMeta{
		Side: side, FullMethod: fullMethod, Service: service, Method: method,
		Descriptor: known.method,
		Policy:     &policyv1.MethodPolicy{},
		policies:   p, above: above,
	}
	if side == Server {
		meta.Intentions = above.intentions(known.service)
	}
	for _, s := range above.steps(known, service, method) {
		s.apply(meta.Policy)
	}
	return meta
}

// names reports whether a contract has fullMethod or a policy names it. gRPC's own
// contracts do not count: their services are exempt only where they are registered.
func (p *Policies) names(fullMethod string) bool {
	above, name := p.current.Load(), strings.TrimPrefix(fullMethod, "/")
	service, _ := rpc.SplitMethod(fullMethod)
	return p.contract(above, fullMethod).method != nil && !Infrastructure(service) ||
		above.builder.GetMethods()[name] != nil || above.operator.GetMethods()[name] != nil
}

// contract returns the contract of a method: that which was read, or the linked one. One
// that was registered after the policies were made, such as by a plugin, is read at the
// first call; invalid rules in it are left out, but for intentions, which deny then.
func (p *Policies) contract(above *layers, fullMethod string) contract {
	if known, ok := above.live.contract(fullMethod); ok {
		return known
	}
	if known, ok := p.contracts[fullMethod]; ok {
		return known
	}
	service, _ := rpc.SplitMethod(fullMethod)
	if found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service)); err == nil {
		if descriptor, ok := found.(protoreflect.ServiceDescriptor); ok {
			return lateContract(descriptor, fullMethod)
		}
	}
	return contract{}
}

func lateContract(service protoreflect.ServiceDescriptor, fullMethod string) contract {
	late := map[string]contract{}
	if err := readService(late, service); err != nil {
		return contract{service: onlyIntentions(service)}
	}
	return late[fullMethod]
}

// onlyIntentions are those of a contract with other rules that are invalid.
func onlyIntentions(service protoreflect.ServiceDescriptor) *policyv1.ServicePolicy {
	list := extensionOf[*policyv1.ServicePolicy](service.Options(), policyv1.E_Service).GetIntentions()
	c := &checker{}
	if c.intentions("intentions", list); len(c.errs) > 0 {
		list = &policyv1.Intentions{} // denies all
	}
	return &policyv1.ServicePolicy{Intentions: list}
}

// check refuses a policy that is wrong in itself or names a method that no contract has.
func check(policy *policyv1.ServicePolicy, contracts map[string]contract) error {
	if err := checkServicePolicy(policy); err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(policy.GetMethods())) {
		methods, foreign := named(contracts, name)
		if !wellFormed(name) {
			errs = append(errs, fmt.Errorf("methods[%q]: write \"Method\" or \"package.Service/Method\"", name))
		} else if len(methods) == 0 && !foreign {
			errs = append(errs, fmt.Errorf("methods[%q]: no contract has this method: write \"Method\" or \"package.Service/Method\"", name))
		}
		for _, method := range methods {
			if err := checkSideEffects(method, policy.GetMethods()[name]); err != nil {
				errs = append(errs, fmt.Errorf("methods[%q]: %w", name, err))
			}
		}
	}
	return join(errs)
}

// wellFormed reports whether name has one half or two, and none of them empty.
func wellFormed(name string) bool {
	halves := strings.Split(name, "/")
	return len(halves) <= 2 && !slices.Contains(halves, "")
}

// Fields returns the fields of the effective policy of meta, in the order of the contract, each with
// what has set it. It is for people: a call never needs it.
func (p *Policies) Fields(meta *CallMeta) []PolicyField {
	above := p.current.Load()
	policy, sources := &policyv1.MethodPolicy{}, map[string]step{}
	for _, s := range above.steps(p.contract(above, meta.FullMethod), meta.Service, meta.Method) {
		private := policy.GetCache().GetScope() == policyv1.CacheScope_CACHE_SCOPE_PRIVATE
		s.apply(policy)
		eachField("", s.policy.ProtoReflect(), func(path, _ string) {
			if path != "cache.scope" || !s.preset || !private { // as mergeDefault does
				sources[path] = s
			}
		})
	}
	fields := []PolicyField{}
	eachField("", policy.ProtoReflect(), func(path, value string) {
		s := sources[path]
		fields = append(fields, PolicyField{path, value, s.layer, s.of})
	})
	return fields
}

// MethodsOf are the methods that the contract of service has, as "package.Service/Method", sorted.
// It is empty without a contract.
func (p *Policies) MethodsOf(service string) []string {
	var names []string
	for name := range p.all(p.current.Load()) {
		if of, _ := rpc.SplitMethod(name); of == service {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	slices.Sort(names)
	return names
}

// named finds the methods of contracts that name means. It is foreign when no contract has
// its service, and so cannot be checked.
func named(contracts map[string]contract, name string) (methods []protoreflect.MethodDescriptor, foreign bool) {
	service, method := rpc.SplitMethod(name)
	foreign = service != ""
	for _, c := range contracts {
		parent := string(c.method.Parent().FullName())
		same := parent == service
		// A short name does not reach gRPC's own services.
		if (same || service == "" && !Infrastructure(parent)) && string(c.method.Name()) == method {
			methods = append(methods, c.method)
		}
		foreign = foreign && !same
	}
	return methods, foreign
}

// readContracts finds every method of the registered files and its options.
func readContracts(files *protoregistry.Files) (map[string]contract, error) {
	contracts := map[string]contract{}
	var errs []error
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			errs = append(errs, readService(contracts, file.Services().Get(i)))
		}
		return true
	})
	return contracts, join(errs)
}

func readService(contracts map[string]contract, service protoreflect.ServiceDescriptor) error {
	policy := extensionOf[*policyv1.ServicePolicy](service.Options(), policyv1.E_Service)
	if err := checkServicePolicy(policy); err != nil {
		return fmt.Errorf("contract of %s: %w", service.FullName(), err)
	}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		own := extensionOf[*policyv1.MethodPolicy](method.Options(), policyv1.E_Method)
		if err := join([]error{checkMethodPolicy("", own), checkSideEffects(method, own)}); err != nil {
			return fmt.Errorf("contract of %s: %w", method.FullName(), err)
		}
		contracts["/"+string(service.FullName())+"/"+string(method.Name())] = contract{method, policy, own}
	}
	return nil
}

func clone(policy *policyv1.ServicePolicy) *policyv1.ServicePolicy {
	return proto.Clone(policy).(*policyv1.ServicePolicy)
}

// merge writes what src sets over dst: messages field by field, limits by their
// name, other lists whole. proto.Merge would append lists.
func merge(dst, src *policyv1.MethodPolicy) {
	if src == nil {
		return
	}
	src = proto.Clone(src).(*policyv1.MethodPolicy)
	limits := mergeLimits(dst.RateLimits, src.RateLimits)
	mergeFields(dst.ProtoReflect(), src.ProtoReflect())
	dst.RateLimits = limits
}

// mergeDefault is merge for a rule about all methods. It does not make the answers
// of a method public that has been called private.
func mergeDefault(dst, src *policyv1.MethodPolicy) {
	private := dst.GetCache().GetScope() == policyv1.CacheScope_CACHE_SCOPE_PRIVATE
	merge(dst, src)
	if private {
		dst.Cache.Scope = policyv1.CacheScope_CACHE_SCOPE_PRIVATE
	}
}

func mergeLimits(dst, src []*policyv1.RateLimitRule) []*policyv1.RateLimitRule {
	for _, rule := range src {
		at := -1
		for i := range dst {
			if dst[i].GetName() == rule.GetName() {
				at = i
			}
		}
		if at < 0 {
			dst = append(dst, rule)
			continue
		}
		mergeFields(dst[at].ProtoReflect(), rule.ProtoReflect())
	}
	return dst
}

// mergeFields takes src's lists as they are: src is a clone, or lives in one.
func mergeFields(dst, src protoreflect.Message) {
	src.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() == nil || field.IsList() {
			dst.Set(field, value)
		} else {
			mergeFields(dst.Mutable(field).Message(), value.Message())
		}
		return true
	})
}
