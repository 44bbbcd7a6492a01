package reflectcall

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// SplitName cuts the name of a method, "package.Service/Method",
// "package.Service.Method" or "/package.Service/Method", in two. A name without a
// second part, "Service" or "package.Service/", is that of a service.
func SplitName(name string) (service, method string, err error) {
	text := strings.TrimPrefix(name, "/")
	at := strings.LastIndexByte(text, '/')
	if at < 0 {
		at = strings.LastIndexByte(text, '.')
	}
	service = text
	if at >= 0 {
		service, method = text[:at], text[at+1:]
	}
	alone := at < 0 || text[at:] == "/"
	if !protoreflect.FullName(service).IsValid() || !alone && !protoreflect.Name(method).IsValid() {
		return "", "", fmt.Errorf("method %q: write package.Service/Method, or package.Service to list its methods", name)
	}
	return service, method, nil
}
