package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	policyv1 "github.com/meshlite-go/meshlite/proto/meshlite/policy/v1"
)

const contract = "../../proto/meshlite/policy/v1/policy.proto"

func TestProtoPrintsTheContract(t *testing.T) {
	want, err := os.ReadFile(contract)
	if err != nil {
		t.Fatal(err)
	}
	if r := runTool(t, "proto"); r.code != 0 || r.out != string(want) {
		t.Errorf("code %d, %d bytes that differ from %s", r.code, len(r.out), contract)
	}
	var got struct{ Path, Source string }
	r := runTool(t, "proto", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Source != string(want) || got.Path != "meshlite/policy/v1/policy.proto" {
		t.Errorf("as JSON: %v, path %q", err, got.Path)
	}
}

func TestProtoWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "proto")
	path := filepath.Join(dir, "meshlite/policy/v1/policy.proto")
	same := func() {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != policyv1.Source {
			t.Errorf("%v: %q...", err, got[:min(len(got), 60)])
		}
	}
	runTool(t, "proto", "--dir", dir).want(t, 0, path+" written: import \"meshlite/policy/v1/policy.proto\"", "")
	same()
	runTool(t, "proto", "--dir", dir).want(t, 0, path+" is there already", "")

	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, "proto", "--dir", dir).want(t, 1, "", path+" is another file or version: --force overwrites it")
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Errorf("it was overwritten by %d bytes", len(got))
	}
	runTool(t, "proto", "--dir", dir, "--force", "-o", "json").want(t, 0, `"written": true`, "")
	same()
}

func TestProtoIntoAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, "proto", "--dir", file).want(t, 1, "", "--dir: ")
}
