package consultest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

var filteredServices = []string{
	`{"ID":"f1","Name":"f","Port":81,"Tags":["a","B","canary-1"],"Meta":{"version":"1","a-b":"x","empty":""},"Weights":{"Passing":3,"Warning":1}}`,
	`{"ID":"f2","Name":"f","Port":82,"Tags":["b"],"Meta":{"version":"2"},"Address":"10.0.0.2","EnableTagOverride":true}`,
	`{"ID":"f3","Name":"f","Port":83}`,
}

// The IDs of those that each filter finds, or the begin of why it is refused.
var filters = []struct{ filter, found string }{
	{`Service.Meta.version == 2`, "f2"},
	{`Service.Meta.version=="2"`, "f2"},
	{"Service.Meta.version == `2`", "f2"},
	{`Service.Meta.version != 2`, "f1 f3"},
	{`Service.Meta["a-b"] == x`, "f1"},
	{`Service["Meta"]["version"] == 1`, "f1"},
	{`Service.Meta.none == x`, ""},
	{`Service.Meta.none != x`, "f1 f2 f3"},
	{`Service.Meta.none matches x`, "f1 f2 f3"}, // Consul's way
	{`Service.Meta.none not matches x`, "f1 f2 f3"},
	{`not Service.Meta.none matches x`, ""},
	{`Service.Meta.version matches "^[12]$"`, "f1 f2 f3"},
	{`Service.Meta.version matches "^[12]$" and version in Service.Meta`, "f1 f2"},
	{`Service.Meta.version not matches "1"`, "f2 f3"},
	{`Service.Meta.version == 1.0`, ""},
	{`Service.Meta.version == -2`, ""},
	{`Service.Meta.empty == ""`, "f1"},
	{`"a-b" in Service.Meta`, "f1"},
	{`version not in Service.Meta`, "f3"},
	{`Service.Meta contains version`, "f1 f2"},
	{`Service.Meta is empty`, "f3"},
	{`Service.Meta is not empty`, "f1 f2"},
	{`a in Service.Tags`, "f1"},
	{`"b" in Service.Tags`, "f2"},
	{`b not in Service.Tags`, "f1 f3"},
	{`Service.Tags contains "canary-1"`, "f1"},
	{`Service.Tags not contains b`, "f1 f3"},
	{`Service.Tags is empty`, "f3"},
	{`Service.ID contains f`, "f1 f2 f3"},
	{`f1 in Service.ID`, "f1"},
	{`Service.ID == F1`, ""},
	{`Service.ID=="f\x31"`, "f1"},
	{`Service.Port == 81`, "f1"},
	{`Service.Port != "82"`, "f1 f3"},
	{`Service.Weights.Passing == 3`, "f1"},
	{`Service.EnableTagOverride == true`, "f2"},
	{`Service.Address == "10.0.0.2"`, "f2"},
	{`Service.TaggedAddresses.none.Address == x`, ""},
	{`Service.Connect.Native == false`, "f1 f2 f3"},
	{`Node.Node == meshlite`, "f1 f2 f3"},
	{`Node.Datacenter == dc1 and Node.TaggedAddresses.lan == "127.0.0.1"`, "f1 f2 f3"},
	{`Node.Meta.none == x`, ""},
	{`Service.ID == f1 or Service.ID == f2 and Service.ID == f3`, "f1"},
	{`(Service.ID == f1 or Service.ID == f2) and Service.ID == f2`, "f2"},
	{`not Service.ID == f1 and Service.ID == f2`, "f2"},
	{`not (Service.ID == f1 or Service.ID==f2)`, "f3"},
	{`not not Service.ID == f1`, "f1"},
	{"\tService.ID ==\nf1 ", "f1"},

	{`Service.Meta.version = 1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Meta.version == `, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Meta.version`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.EnableTagOverride`, "500 Failed to create boolean expression evaluator: 1:"},
	{`== 1`, "500 Failed to create boolean expression evaluator: 1:"},
	{` `, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == "f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == "f\q1"`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == f1 OR Service.ID == f2`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == f1 and`, "500 Failed to create boolean expression evaluator: 1:"},
	{`(Service.ID == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == f1)`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID == f-1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID in "f1"`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID not == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Address == 10.0.0.2`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Port > 80`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.ID is f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service. == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Meta["a == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Meta["a" == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`"Service".ID == f1`, "500 Failed to create boolean expression evaluator: 1:"},
	{`Service.Port == x`, `500 Failed to create boolean expression evaluator: Failed to coerce value "x" for selector "Service.Port": strconv.ParseInt: parsing "x": invalid syntax`},
	{`Service.EnableTagOverride == yes`, `500 Failed to create boolean expression evaluator: Failed to coerce value "yes"`},
	{`Service.Port matches "8"`, `500 Failed to create boolean expression evaluator: Invalid match operator "Matches" for selector "Service.Port"`},
	{`Service.Tags == a`, `500 Failed to create boolean expression evaluator: Invalid match operator "Equal" for selector "Service.Tags"`},
	{`Service.Tags matches a`, `500 Failed to create boolean expression evaluator: Invalid match operator "Matches" for selector "Service.Tags"`},
	{`Service.Meta == 1`, `500 Failed to create boolean expression evaluator: Invalid match operator "Equal" for selector "Service.Meta"`},
	{`Service.Meta.none is empty`, `500 Failed to create boolean expression evaluator: Invalid match operator "Is Empty" for selector "Service.Meta.none"`},
	{`Service.Meta.none is not empty`, `500 Failed to create boolean expression evaluator: Invalid match operator "Is Not Empty" for selector "Service.Meta.none"`},
	{`Service.Port != x`, `500 Failed to create boolean expression evaluator: Failed to coerce value "x"`},
	{`Service.Tags != a`, `500 Failed to create boolean expression evaluator: Invalid match operator "Not Equal" for selector "Service.Tags"`},
	{`Service.Port not contains 8`, `500 Failed to create boolean expression evaluator: Invalid match operator "Not In" for selector "Service.Port"`},
	{`Service.Foo == 1`, `500 Failed to create boolean expression evaluator: Selector "Service.Foo" is not valid`},
	{`Foo == 1`, `500 Failed to create boolean expression evaluator: Selector "Foo" is not valid`},
	{`Service.Tags.x == a`, `500 Failed to create boolean expression evaluator: Selector "Service.Tags.x" is not valid`},
	{`Service.ModifyIndex == 5`, `500 Failed to create boolean expression evaluator: Selector "Service.ModifyIndex" is not valid`},
	{`Service.Locality.Zone == ""`, `500 Failed to create boolean expression evaluator: Selector "Service.Locality" is not valid`},
	{`Service.ID matches "["`, `500 Failed to create boolean expression evaluator: Failed to compile regular expression "["`},
}

func filtering(filter string) message {
	return message{"GET", "/v1/health/service/f?filter=" + url.QueryEscape(filter), ""}
}

// Case T11
func TestFilter(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		for _, service := range filteredServices {
			do(t, c, "PUT", "/v1/agent/service/register", service)
		}
		client := agentOver(t, c)
		for _, test := range filters {
			entries, _, err := client.Health().Service("f", "", false, withFilter(test.filter))
			var found []string
			for _, e := range entries {
				found = append(found, e.Service.ID)
			}
			got, failed := strings.Join(found, " "), strings.HasPrefix(test.found, "500 ")
			switch {
			case failed && (err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(test.found, "500 "))):
				t.Errorf("%q: got %q, %v, want %s", test.filter, got, err, test.found)
			case !failed && (err != nil || got != test.found):
				t.Errorf("%q: got %q, %v, want %q", test.filter, got, err, test.found)
			}
		}
	}, consultest.WithNode("meshlite", "127.0.0.1"))
}

// Case T11
func TestFilterAsTheRealConsulDoes(t *testing.T) {
	standIn, real := clients(t)
	for _, service := range filteredServices {
		compare(t, message{"PUT", "/v1/agent/service/register", service}, standIn, real)
	}
	for _, test := range filters {
		compare(t, filtering(test.filter), standIn, real)
	}
}

// What a filter may cost is bounded, and what is not evaluated is refused.
func TestFilterIsBounded(t *testing.T) {
	s, _ := newAgent(t)
	c := &http.Client{Transport: s.Transport()}
	for filter, want := range map[string]string{
		strings.Repeat("(", 101) + `Service.ID == a` + strings.Repeat(")", 101): "a filter can nest 100 deep at most",
		strings.Repeat("not ", 101) + `Service.ID == a`:                         "a filter can nest 100 deep at most",
		`Service.ID == "` + strings.Repeat("a", 8<<10) + `"`:                    "a filter of 8208 bytes is too long",
		`Checks.Status == passing`:                                              "filters by Checks are not supported",
		`Service.ID == a and (Checks.Status == passing or "a" in Service.Tags)`: "filters by Checks are not supported",
	} {
		message := filtering(filter)
		if got := do(t, c, message.method, message.path, ""); got.code != 500 || !strings.Contains(got.body, want) {
			t.Errorf("%.40s: got %d %s, want %s", filter, got.code, got.body, want)
		}
	}
}
