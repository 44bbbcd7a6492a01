package interceptors

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/identity/intention"
)

// LateIntentions are those of a contract that is registered after policies were made.
func LateIntentions(service protoreflect.ServiceDescriptor, fullMethod string) *intention.Set {
	return (&layers{}).intentions(lateContract(service, fullMethod).service)
}
