package ratelimit

import (
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"
)

// The fields of draft-ietf-httpapi-ratelimit-headers, as trailers: lists of
// structured fields (RFC 9651), an item for each limit.
const (
	policyField   = "ratelimit-policy" // "name";q=quota;w=window in seconds
	standingField = "ratelimit"        // "name";r=remaining;t=seconds until all is back
)

// fields tells all standings. It is nil without one.
func fields(all []Standing) metadata.MD {
	if len(all) == 0 {
		return nil
	}
	var policy, state []byte
	for i, s := range all {
		if i > 0 {
			policy, state = append(policy, ", "...), append(state, ", "...)
		}
		quota, window := s.Limit.window()
		policy = appendItem(policy, s.Name, "q", quota, "w", window)
		state = appendItem(state, s.Name, "r", s.Remaining, "t", seconds(s.Reset))
	}
	return metadata.Pairs(policyField, string(policy), standingField, string(state))
}

func appendItem(to []byte, name, param string, value uint64, param2 string, value2 uint64) []byte {
	const most = 999_999_999_999_999 // RFC 9651, 3.3.1
	to = appendText(to, name)
	to = strconv.AppendUint(append(append(append(to, ';'), param...), '='), min(value, most), 10)
	return strconv.AppendUint(append(append(append(to, ';'), param2...), '='), min(value2, most), 10)
}

// appendText quotes text as far as a structured field can carry it (RFC 9651, 3.3.3).
func appendText(to []byte, text string) []byte {
	to = append(to, '"')
	for _, r := range text {
		switch {
		case r < ' ' || r > '~':
			to = append(to, '_')
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		default:
			to = append(to, byte(r))
		}
	}
	return append(to, '"')
}

// window is the limit for whole seconds: a period that is none is lengthened to
// the next, and the quota with it.
func (l Limit) window() (quota, window uint64) {
	window = seconds(l.Period)
	if whole := time.Duration(window) * time.Second; whole != l.Period && whole > 0 {
		return uint64(float64(l.Calls) * (float64(whole) / float64(l.Period))), window
	}
	return l.Calls, window
}

// seconds rounds up.
func seconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64(d-1)/uint64(time.Second) + 1
}
