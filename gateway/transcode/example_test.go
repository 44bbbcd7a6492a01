package transcode_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshlite-go/meshlite/gateway/transcode"
)

func ExampleNew() {
	t := new(testing.T)
	mux, err := transcode.New(transcode.Config{Services: []transcode.Service{{
		Name:     "forms",
		Conn:     echo{}, // a *grpc.ClientConn
		Contract: formsContract(t),
		Offers:   func(m protoreflect.MethodDescriptor) bool { return m.Name() == "Variable" },
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(mux.Bindings()[0])
	server := httptest.NewServer(mux)
	defer server.Close()
	answer, err := http.Get(server.URL + "/v1/variables/fudge?int64=9007199254740993")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	fmt.Println(string(body), err)
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// GET /v1/variables/{id}
	// {"id":"fudge","int64":"9007199254740993"} <nil>
}
