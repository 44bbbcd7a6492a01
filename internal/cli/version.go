package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"google.golang.org/grpc"
)

// Build is what the tool is built of.
type Build struct {
	Version  string `json:"version"`            // of the module
	Revision string `json:"revision,omitempty"` // of the repository it was built in
	Go       string `json:"go"`
	GRPC     string `json:"grpc"`
	Platform string `json:"platform"`
}

// ReadBuild reads what the Go tool has left in the binary.
func ReadBuild() Build {
	b := Build{Version: "(devel)", Go: runtime.Version(), GRPC: grpc.Version, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.Revision = setting.Value
		}
	}
	return b
}

// Version writes what the tool is built of.
func Version(format Format, out io.Writer) error {
	b := ReadBuild()
	if format == JSON {
		return WriteJSON(out, b)
	}
	_, err := fmt.Fprintf(out, "meshlite %s (%s, grpc %s, %s)\n", b.Version, b.Go, b.GRPC, b.Platform)
	return err
}
