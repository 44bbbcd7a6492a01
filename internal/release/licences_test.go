package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLicencesAreChecked(t *testing.T) {
	for name, test := range map[string]struct{ bill, want string }{
		"allowed":   {`{"components": [{"name": "a", "evidence": {"licenses": [{"license": {"id": "MIT"}}]}}]}`, ""},
		"refused":   {`{"components": [{"name": "a", "version": "v1", "licenses": [{"license": {"id": "AGPL-3.0"}}]}]}`, `a v1: ["AGPL-3.0"]`},
		"one of":    {`{"components": [{"name": "a", "licenses": [{"license": {"id": "GPL-2.0"}}, {"license": {"id": "MIT"}}]}]}`, ""},
		"none":      {`{"components": [{"name": "a", "version": "v1"}]}`, "a v1: []"},
		"no bill":   {`{}`, "no components"},
		"no syntax": {`x`, "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bill.json")
			if err := os.WriteFile(path, []byte(test.bill), 0o600); err != nil {
				t.Fatal(err)
			}
			switch err := checkLicences(path); {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("the error is %v, want one with %q", err, test.want)
			}
		})
	}
}
