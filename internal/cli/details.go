package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/anypb"
)

// detailWords is a detail of a status, unless its message says it. What is no standard
// one is only named.
func detailWords(detail *anypb.Any, said string) string {
	message, err := detail.UnmarshalNew()
	if err != nil {
		return unknownDetail(detail)
	}
	switch d := message.(type) {
	case *errdetails.RetryInfo:
		if delay := short(d.GetRetryDelay().AsDuration()); !strings.Contains(said, delay) {
			return "retry in " + delay
		}
		return ""
	case *errdetails.ErrorInfo:
		return "reason " + strings.Join(append(given(d.GetReason(), d.GetDomain()), pairs(d.GetMetadata())...), ", ")
	case *errdetails.QuotaFailure:
		return listed(d.GetViolations(), func(v *errdetails.QuotaFailure_Violation) []string {
			if strings.Contains(said, v.GetDescription()) {
				return nil
			}
			return given(v.GetSubject(), v.GetDescription())
		})
	case *errdetails.PreconditionFailure:
		return listed(d.GetViolations(), func(v *errdetails.PreconditionFailure_Violation) []string {
			return given(v.GetType(), v.GetSubject(), v.GetDescription())
		})
	case *errdetails.BadRequest:
		return listed(d.GetFieldViolations(), func(v *errdetails.BadRequest_FieldViolation) []string {
			return given(v.GetField(), v.GetDescription())
		})
	case *errdetails.Help:
		return listed(d.GetLinks(), func(l *errdetails.Help_Link) []string { return given(l.GetDescription(), l.GetUrl()) })
	case *errdetails.ResourceInfo:
		return strings.Join(given(strings.TrimSpace(d.GetResourceType()+" "+d.GetResourceName()), d.GetDescription()), ": ")
	case *errdetails.LocalizedMessage:
		return d.GetMessage()
	case *errdetails.RequestInfo:
		return "request " + d.GetRequestId()
	case *errdetails.DebugInfo:
		return d.GetDetail()
	default:
		return unknownDetail(detail)
	}
}

func unknownDetail(detail *anypb.Any) string {
	return fmt.Sprintf("with a %s: -o json has it", detail.MessageName())
}

// listed is a list of messages, each of which has parts.
func listed[T any](list []T, parts func(T) []string) string {
	var all []string
	for _, one := range list {
		if text := strings.Join(parts(one), ": "); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

// given are the texts that are not empty.
func given(texts ...string) []string {
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}

func pairs(values map[string]string) []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		all = append(all, key+" "+values[key])
	}
	return all
}
