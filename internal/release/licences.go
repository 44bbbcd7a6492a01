package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// allowed are licences by which programs may be passed on with a notice. That of the MPL is
// kept by pointing to the unchanged source.
var allowed = []string{"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "0BSD", "Unlicense", "CC0-1.0"}

// read are licences that the detector does not recognize, as somebody has read them.
var read = map[string]string{
	"github.com/hashicorp/go-metrics": "MIT", // without its title

	// That of Go itself, which the detector takes for another of the family.
	"golang.org/x/exp":  "BSD-3-Clause",
	"golang.org/x/net":  "BSD-3-Clause",
	"golang.org/x/sync": "BSD-3-Clause",
	"golang.org/x/sys":  "BSD-3-Clause",
	"golang.org/x/text": "BSD-3-Clause",
	"golang.org/x/time": "BSD-3-Clause",
}

// checkLicences reads an SBOM in CycloneDX, and returns an error that names each component
// without a licence that is allowed.
func checkLicences(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var bill struct {
		Components []struct {
			Name, Version string
			Evidence      struct {
				Licenses []struct{ License struct{ ID, Name string } }
			}
			Licenses []struct{ License struct{ ID, Name string } }
		}
	}
	if err := json.Unmarshal(content, &bill); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(bill.Components) == 0 {
		return fmt.Errorf("%s has no components: was it made by cyclonedx-gomod?", path)
	}
	var refused []string
	for _, c := range bill.Components {
		var names []string
		if name := read[c.Name]; name != "" {
			names = append(names, name)
		}
		for _, l := range slices.Concat(c.Licenses, c.Evidence.Licenses) {
			names = append(names, l.License.ID+l.License.Name)
		}
		if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(allowed, name) }) {
			refused = append(refused, fmt.Sprintf("%s %s: %q", c.Name, c.Version, names))
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("no licence of these is in %v:\n%s", allowed, strings.Join(refused, "\n"))
	}
	fmt.Printf("%d components, all with a licence that allows their distribution\n", len(bill.Components))
	return nil
}
