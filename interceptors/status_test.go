package interceptors_test

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshlite-go/meshlite/interceptors"
)

func TestAMarkChangesNoError(t *testing.T) {
	err := status.Error(codes.Internal, "no")
	marked := interceptors.Logged(err)
	if !interceptors.IsLogged(marked) || !interceptors.IsLogged(fmt.Errorf("more: %w", marked)) || interceptors.IsLogged(err) || interceptors.IsLogged(nil) {
		t.Error("what is marked is not distinguished from what is not")
	}
	if s, ok := status.FromError(marked); !ok || s.Code() != codes.Internal || s.Message() != "no" || !errors.Is(marked, err) || marked.Error() != err.Error() {
		t.Errorf("the mark changes %v to %v", err, marked)
	}
}
