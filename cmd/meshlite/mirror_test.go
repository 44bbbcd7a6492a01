package main

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meshlite-go/meshlite"
	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const mirrorPage = `{"mirrors": [
	{"channel": "consul:///catalog", "method": "/` + sweetMethod + `", "target": "catalog/v2", "percent": 1, "in_flight": 2,
	 "codes": {"OK": 9, "Unavailable": 1}, "dropped": {"calls": 3}, "same": 7, "different": 3,
	 "differences": [{"path": "sweet.price_pence", "count": 3, "caller": "120", "copy": "130\u001b[2J"}], "last_error": "down\nagain"},
	{"channel": "consul:///catalog", "method": "(other)", "target": "(other)", "percent": 0, "codes": null, "dropped": null, "differences": null}]}`

func TestMirrorsAreShownWithWhereAnswersDiffer(t *testing.T) {
	page := serveText(t, mirrorPage)
	r := runTool(t, "mirror", "--client", page)
	r.want(t, 0, sweetMethod+" of consul:///catalog\n", "")
	r.want(t, 0, "  to catalog/v2, 1%: 9 OK, 1 Unavailable, 2 in flight; 3 dropped (calls); 7 of 10 answers are the same\n  ! down; again\n", "")
	r.want(t, 0, "  DIFFER  FIELD              CALLER  COPY\n  3       sweet.price_pence  120     130\ufffd[2J\n", "")
	r.want(t, 0, "  to (other), no longer: no copy has ended\n", "")
	if r := runTool(t, "mirror", "--client", page, "-o", "json"); strings.Contains(r.out, "null") {
		t.Errorf("a list is null: %s", r.out)
	}
	runTool(t, "mirror", "--client", serveText(t, `{}`)).want(t, 1, "", "older meshlite")
	runTool(t, "mirror", "--client", serveText(t, `{"mirrors": []}`)).want(t, 0, "no rule has copied a call yet\n", "")
	runTool(t, "mirror", "a", "b").want(t, 2, "", "takes SERVICE or nothing")
}

// The help names each field.
func TestTheHelpOfMirrorNamesTheFields(t *testing.T) {
	r := runTool(t, "mirror", "--client", serveText(t, mirrorPage), "-o", "json")
	var output struct{ Processes []map[string]any }
	if err := json.Unmarshal([]byte(r.out), &output); err != nil || len(output.Processes) != 1 {
		t.Fatalf("%v in %s", err, r.out)
	}
	help := strings.Join(strings.Fields(runTool(t, "mirror", "--help").out), " ")
	mirrors := output.Processes[0]["mirrors"].([]any)[0].(map[string]any)
	for _, fields := range []map[string]any{mirrors, mirrors["differences"].([]any)[0].(map[string]any)} {
		for name := range fields {
			if !strings.Contains(help, name) {
				t.Errorf("%s is not in the help", name)
			}
		}
	}
}

func TestAnExplanationShowsTheMirror(t *testing.T) {
	openAgent(t)
	runtime := newRuntime(t)
	openReflectingShop(t, "catalog", 1)
	openChannel(t, "consul:///catalog", runtime, meshlite.WithPolicy(&policyv1.ServicePolicy{Methods: map[string]*policyv1.MethodPolicy{
		"GetSweet": {Mirror: &policyv1.MirrorRule{Target: proto.String("catalog-next"), Percent: proto.Float64(0.5), Compare: proto.Bool(true), Ignore: []string{"sweet.name"}}},
	}}))
	handler, err := runtime.Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := runTool(t, "explain", "consul:///catalog", sweetMethod, "--client", servePage(t, handler))
	r.want(t, 0, "mirror: 0.5% of such calls are copied to catalog-next, and the answers compared without sweet.name\n", "")
	r.want(t, 0, "mirror.percent: 0.5 (program, GetSweet)\n", "")
}
