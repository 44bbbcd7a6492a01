package interceptors

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// Layer is who has written a part of a policy.
type Layer string

// The layers, from the lowest to the highest.
const (
	OfContract Layer = "contract"
	OfProgram  Layer = "program" // by an option in Go
	OfOperator Layer = "operator"
)

// PolicyField is a field of the effective policy of a method, and what has set it last.
type PolicyField struct {
	Field string `json:"field"` // "cache.ttl", "rate_limits[customer].limit"
	Value string `json:"value"`
	Layer Layer  `json:"layer"`
	// Of is the part of the layer: "default", or the method as it is written there.
	Of string `json:"of"`
}

// step is a part of a layer that says something of a method. Later ones win field by field.
type step struct {
	layer  Layer
	of     string
	policy *policyv1.MethodPolicy
	preset bool // a rule about all methods
}

// apply merges s into policy.
func (s *step) apply(policy *policyv1.MethodPolicy) {
	if s.preset {
		mergeDefault(policy, s.policy)
	} else {
		merge(policy, s.policy)
	}
}

// steps are those of a method, in the order in which they are merged.
func (l *layers) steps(known contract, service, method string) []step {
	const preset = "default"
	steps := []step{
		{OfContract, preset, known.service.GetDefault(), true},
		{OfContract, method, known.service.GetMethods()[method], false},
		{OfContract, method, known.policy, false},
	}
	for _, above := range []struct {
		layer  Layer
		policy *policyv1.ServicePolicy
	}{{OfProgram, l.builder}, {OfOperator, l.operator}} {
		if !Infrastructure(service) {
			steps = append(steps, step{above.layer, preset, above.policy.GetDefault(), true}, step{above.layer, method, above.policy.GetMethods()[method], false})
		}
		steps = append(steps, step{above.layer, service + "/" + method, above.policy.GetMethods()[service+"/"+method], false})
	}
	return steps
}

// eachField visits what m sets, down to values without fields.
func eachField(path string, m protoreflect.Message, visit func(path, value string)) {
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		field := all.Get(i)
		if !m.Has(field) {
			continue
		}
		name, value := strings.TrimPrefix(path+"."+string(field.Name()), "."), m.Get(field)
		switch {
		case field.IsList() && field.Message() != nil:
			for k := range value.List().Len() {
				one := value.List().Get(k).Message()
				eachField(fmt.Sprintf("%s[%s]", name, labelOf(one, k)), one, visit)
			}
		case field.IsList():
			var texts []string
			for k := range value.List().Len() {
				texts = append(texts, value.List().Get(k).String())
			}
			visit(name, strings.Join(texts, ", "))
		case field.Message() != nil && value.Message().Descriptor().Fields().Len() == 0:
			visit(name, "set")
		case field.Message() != nil:
			eachField(name, value.Message(), visit)
		case field.Enum() != nil:
			visit(name, string(field.Enum().Values().ByNumber(value.Enum()).Name()))
		default:
			visit(name, value.String())
		}
	}
}

// labelOf is the name of an element of a list, or its position: limits are merged by their name.
func labelOf(m protoreflect.Message, position int) string {
	if limit, ok := m.Interface().(*policyv1.RateLimitRule); ok {
		return limit.GetName()
	}
	return fmt.Sprint(position)
}
