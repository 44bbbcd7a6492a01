package chaos

import "testing"

func TestSharesOfNewInstances(t *testing.T) {
	before := map[string]uint64{"old": 1000, "older": 900}
	for name, test := range map[string]struct {
		now  map[string]uint64
		want bool
	}{
		"equal":         {map[string]uint64{"old": 1100, "older": 1000, "new": 100}, true},
		"enough":        {map[string]uint64{"old": 1110, "older": 1100, "new": 95}, true},
		"too little":    {map[string]uint64{"old": 1150, "older": 1050, "new": 60}, false},
		"nothing":       {map[string]uint64{"old": 1150, "older": 1050}, false},
		"no calls":      {before, false},
		"all by others": {map[string]uint64{"old": 1300, "older": 900}, false},
	} {
		if got := haveTheirShare(before, test.now, []string{"new"}, 3); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
