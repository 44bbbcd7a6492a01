package admin_test

import (
	"errors"
	"fmt"
	"net/http/httptest"

	"github.com/meshlite-go/meshlite/admin"
)

func Example() {
	handler, err := admin.New(admin.WithHealth(func() error {
		return errors.New("catalog: no healthy instance")
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	// In a program: server := admin.Serve(listener, handler); defer server.Close().
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("GET", "/healthz", nil))
	fmt.Print(answer.Code, " ", answer.Body)
	// Output:
	// 503 catalog: no healthy instance
}
