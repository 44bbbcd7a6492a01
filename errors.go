package meshlite

import "fmt"

// optionError names an option, the value that is wrong with it and what to write
// instead.
func optionError(option, value, fix string) error {
	return fmt.Errorf("meshlite: %s %q: %s", option, value, fix)
}
