package wire

import "google.golang.org/grpc/attributes"

type datacenterKey struct{}

// DatacenterAttributes are those of an address that was found in a datacenter which the
// target names. The resolver sets them, and credentials verify the datacenter.
func DatacenterAttributes(datacenter string) *attributes.Attributes {
	return attributes.New(datacenterKey{}, datacenter)
}

// Datacenter is that of [DatacenterAttributes], "" without it.
func Datacenter(a *attributes.Attributes) string {
	datacenter, _ := a.Value(datacenterKey{}).(string)
	return datacenter
}
