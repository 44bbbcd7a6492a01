package interceptors

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/identity/intention"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// intentions are those in force for the methods of a service, nil if there are none. Those
// above the contract are about gRPC's own services, too.
func (above *layers) intentions(contract *policyv1.ServicePolicy) *intention.Set {
	var merged *policyv1.Intentions
	for _, layer := range []*policyv1.ServicePolicy{contract, above.builder, above.operator} {
		merged = mergeIntentions(merged, layer.GetIntentions())
	}
	if merged == nil || merged.GetDisabled() {
		return nil
	}
	set := &intention.Set{Default: actionOf(merged.GetDefault())}
	for _, source := range merged.GetSources() {
		set.Intentions = append(set.Intentions, intentionOf(source))
	}
	return set
}

// HaveIntentions reports whether there is a policy with intentions, be it that of a contract
// whose service this program does not serve.
func (p *Policies) HaveIntentions() bool {
	above := p.current.Load()
	if above.intentions(nil) != nil {
		return true
	}
	for _, c := range p.all(above) {
		if above.intentions(c.service) != nil {
			return true
		}
	}
	return false
}

// mergeIntentions writes what src sets over dst, sources by their name.
func mergeIntentions(dst, src *policyv1.Intentions) *policyv1.Intentions {
	if src == nil {
		return dst
	}
	src = proto.Clone(src).(*policyv1.Intentions)
	if dst == nil {
		return src
	}
	sources := dst.Sources
	for _, source := range src.Sources {
		same := func(earlier *policyv1.SourceIntention) bool { return earlier.GetName() == source.GetName() }
		if at := slices.IndexFunc(sources, same); at >= 0 {
			sources[at] = source
		} else {
			sources = append(sources, source)
		}
	}
	mergeFields(dst.ProtoReflect(), src.ProtoReflect())
	dst.Sources = sources
	return dst
}

func intentionOf(source *policyv1.SourceIntention) intention.Intention {
	read := intention.Intention{Source: source.GetName(), Destination: intention.Wildcard, Action: actionOf(source.GetAction())}
	for _, p := range source.GetPermissions() {
		permission := intention.Permission{
			Action: actionOf(p.GetAction()), PathExact: p.GetPathExact(), PathPrefix: p.GetPathPrefix(), PathRegex: p.GetPathRegex(),
			Methods: p.GetMethods(),
		}
		for _, h := range p.GetHeaders() {
			permission.Headers = append(permission.Headers, intention.Header{
				Name: h.GetName(), Present: h.GetPresent(), Exact: h.GetExact(), Prefix: h.GetPrefix(), Suffix: h.GetSuffix(),
				Contains: h.GetContains(), Regex: h.GetRegex(), Invert: h.GetInvert(), IgnoreCase: h.GetIgnoreCase(),
			})
		}
		read.Permissions = append(read.Permissions, permission)
	}
	return read
}

// actionOf is "" for none.
func actionOf(action policyv1.IntentionAction) intention.Action {
	switch action {
	case policyv1.IntentionAction_INTENTION_ACTION_ALLOW:
		return intention.Allow
	case policyv1.IntentionAction_INTENTION_ACTION_DENY:
		return intention.Deny
	default:
		return ""
	}
}

const eitherAction = "write INTENTION_ACTION_ALLOW or INTENTION_ACTION_DENY"

// intentions refuses a list that would not decide as it reads. A condition that is not
// understood must not be left out: the rule would match more calls.
func (c *checker) intentions(where string, list *policyv1.Intentions) {
	if list == nil {
		return
	}
	c.unknownFields(where, list.ProtoReflect())
	if list.Default != nil && actionOf(list.GetDefault()) == "" {
		c.wrong(where, "default", "%v is no action: %s", list.GetDefault(), eitherAction)
	}
	if n := len(list.GetSources()); n > intention.MaxIntentions {
		c.wrong(where, "sources", "%d of them: write %d at most", n, intention.MaxIntentions)
		return
	}
	seen := map[string]bool{}
	for i, source := range list.GetSources() {
		at := fmt.Sprintf("%s.sources[%d]", where, i)
		if err := intention.CheckSource(source.GetName()); err != nil {
			c.wrong(at, "name", "%v", err)
			continue
		}
		if seen[source.GetName()] {
			c.wrong(at, "name", "%q is given twice: write one list of permissions for it", source.GetName())
		}
		seen[source.GetName()] = true
		c.source(at, source)
	}
}

// source checks what is wrong in the contract of policies alone, and leaves the rest to package
// intention.
func (c *checker) source(where string, source *policyv1.SourceIntention) {
	before := len(c.errs)
	if source.GetAction() != 0 || len(source.GetPermissions()) == 0 {
		c.action(where, source.GetAction())
	}
	for i, p := range source.GetPermissions() {
		c.permission(fmt.Sprintf("%s.permissions[%d]", where, i), p)
	}
	if len(c.errs) > before {
		return
	}
	read := intentionOf(source)
	if err := read.Check(); err != nil {
		c.wrong(where, snakeCase(err.Field), "%s", err.Problem)
	}
}

func (c *checker) action(where string, action policyv1.IntentionAction) {
	if actionOf(action) == "" {
		c.wrong(where, "action", "%v is no action: %s", action, eitherAction)
	}
}

func (c *checker) permission(where string, p *policyv1.IntentionPermission) {
	c.action(where, p.GetAction())
	switch path := p.GetPath().(type) {
	case *policyv1.IntentionPermission_PathExact:
		c.fullMethod(where, "path_exact", path.PathExact)
	case *policyv1.IntentionPermission_PathPrefix:
		c.fullMethod(where, "path_prefix", path.PathPrefix)
	case *policyv1.IntentionPermission_PathRegex:
		if path.PathRegex == "" {
			c.wrong(where, "path_regex", "\"\" matches nothing: write an expression for \"/package.Service/Method\", or leave it out")
		}
	}
	for i, method := range p.GetMethods() {
		if method == "" || method != strings.ToUpper(method) {
			c.wrong(where, fmt.Sprintf("methods[%d]", i), "%q is no method of HTTP: write \"POST\", which every gRPC call has, or leave it out", method)
		}
	}
	for i, h := range p.GetHeaders() {
		if _, given := h.GetMatch().(*policyv1.IntentionHeader_Present); given && !h.GetPresent() {
			c.wrong(where, fmt.Sprintf("headers[%d].present", i), "false: write present: true with invert: true for a key that must be missing")
		}
	}
}

// fullMethod refuses what begins no path of gRPC.
func (c *checker) fullMethod(where, field, path string) {
	if !strings.HasPrefix(path, "/") {
		c.wrong(where, field, "%q begins no call: write \"/package.Service/Method\"", path)
	}
}

// unknownFields refuses what a later version may have added, since it may be a condition.
func (c *checker) unknownFields(where string, message protoreflect.Message) {
	if len(message.GetUnknown()) > 0 {
		c.wrong(where, string(message.Descriptor().Name()), "has a field that this version does not know: use the version of meshlite that the contract was written for")
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Message() != nil && field.IsList() {
			for i := range value.List().Len() {
				c.unknownFields(fmt.Sprintf("%s.%s[%d]", where, field.Name(), i), value.List().Get(i).Message())
			}
		}
		return true
	})
}

// snakeCase writes a path of Go's fields as that of a contract's.
func snakeCase(path string) string {
	var text strings.Builder
	for i, r := range path {
		if unicode.IsUpper(r) && i > 0 && path[i-1] != '.' {
			text.WriteByte('_')
		}
		text.WriteRune(unicode.ToLower(r))
	}
	return text.String()
}

// Changed is closed when the policy of the method may be another one. It is nil, and so never
// closed, for a CallMeta that no [Policies] made.
func (m *CallMeta) Changed() <-chan struct{} {
	if m.above == nil {
		return nil
	}
	return m.above.replaced
}

// Latest is what [Policies.Call] returns now.
func (m *CallMeta) Latest() *CallMeta {
	if m.policies == nil {
		return m
	}
	return m.policies.Call(m.Side, m.FullMethod)
}
