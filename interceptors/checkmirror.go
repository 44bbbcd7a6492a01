package interceptors

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

// MirrorSteps are how many steps the percent of a mirror rule has, of 0.01 each.
const MirrorSteps = 10_000

// maxMirrorTarget bounds the target of a mirror rule in bytes: it is a label of metrics.
const maxMirrorTarget = 256

func (c *checker) mirror(where string, rule *policyv1.MirrorRule) {
	if rule == nil {
		return
	}
	if rule.Target != nil {
		if _, _, err := MirrorTarget(rule.GetTarget()); err != nil {
			c.wrong(where, "target", "%v", err)
		}
	}
	if p := rule.GetPercent(); rule.Percent != nil && !(p >= 0 && p <= 100 && isStep(p)) {
		c.wrong(where, "percent", "%v is not in 0 to 100 in steps of 0.01: 1 copies one call of a hundred, 0 none", p)
	}
}

// isStep reports whether percent is a multiple of 0.01, but for rounding.
func isStep(percent float64) bool {
	steps := percent * MirrorSteps / 100
	return math.Abs(steps-math.Round(steps)) < 1e-6
}

// MirrorTarget splits the target of a mirror rule: "catalog-next", or "catalog/v2" with a subset.
func MirrorTarget(target string) (service, subset string, err error) {
	service, subset, hasSubset := strings.Cut(target, "/")
	switch {
	case service == "" || hasSubset && subset == "" || strings.Contains(subset, "/"):
		return "", "", fmt.Errorf("%.80q: write the name of a service, \"catalog-next\", or one of its subsets, \"catalog/v2\"", target)
	case len(target) > maxMirrorTarget:
		return "", "", fmt.Errorf("%.80q... has %d bytes, and at most %d are taken: write the name of a service or \"service/subset\"", target, len(target), maxMirrorTarget)
	case !utf8.ValidString(target) || strings.ContainsFunc(target, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", "", fmt.Errorf("%.80q holds characters that cannot be printed: write the name of a service or \"service/subset\"", target)
	}
	return service, subset, nil
}

// checkMirrored refuses a rule written for this very method that would copy what may not run
// twice, or streams.
func checkMirrored(meta *CallMeta) error {
	if meta.Policy.GetMirror().GetPercent() == 0 || meta.Mirrorable() {
		return nil
	}
	if meta.Streams() {
		return fmt.Errorf("mirror.percent: %s is a stream, and only unary calls are copied: leave the rule out", meta.Descriptor.FullName())
	}
	return fmt.Errorf("mirror.percent: %s may not run twice: mark it idempotency_level = %v in the contract, or set allow_side_effects",
		meta.Descriptor.FullName(), descriptorpb.MethodOptions_IDEMPOTENT)
}

// checkMergedMirror refuses what only shows when all layers are merged: what is missing, and
// ignored fields that the answer does not have.
func checkMergedMirror(meta *CallMeta) error {
	rule := meta.Policy.GetMirror()
	switch {
	case rule == nil:
		return nil
	case rule.Percent == nil:
		return errors.New("mirror.percent: missing: write how many of a hundred calls are copied; 0 is none")
	case rule.Target == nil && rule.GetPercent() > 0:
		return errors.New("mirror.target: missing: write the name of a service, or \"service/subset\"")
	case meta.Descriptor == nil || !meta.Mirrorable():
		return nil
	}
	for i, field := range rule.GetIgnore() {
		if err := checkAnswerPath(meta.Descriptor.Output(), field); err != nil {
			return fmt.Errorf("mirror.ignore[%d]: %w", i, err)
		}
	}
	return nil
}

// checkAnswerPath refuses a dotted path that message does not have. Paths go through lists and
// the values of maps.
func checkAnswerPath(message protoreflect.MessageDescriptor, text string) error {
	for name := range strings.SplitSeq(text, ".") {
		if message == nil {
			return fmt.Errorf("%q: what is before %q is no message and has no fields", text, name)
		}
		field := message.Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return fmt.Errorf("%q: %s has no field %q", text, message.FullName(), name)
		}
		if message = field.Message(); field.IsMap() {
			message = field.MapValue().Message()
		}
	}
	return nil
}
