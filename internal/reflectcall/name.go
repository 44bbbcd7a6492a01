package reflectcall

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// SplitName cuts the name of a method, "package.Service/Method",
// "package.Service.Method" or "/package.Service/Method", in two.
func SplitName(name string) (service, method string, err error) {
	text := strings.TrimPrefix(name, "/")
	at := strings.LastIndexByte(text, '/')
	if at < 0 {
		at = strings.LastIndexByte(text, '.')
	}
	if at >= 0 {
		service, method = text[:at], text[at+1:]
	}
	if !protoreflect.FullName(service).IsValid() || !protoreflect.Name(method).IsValid() {
		return "", "", fmt.Errorf("method %q: write package.Service/Method", name)
	}
	return service, method, nil
}
