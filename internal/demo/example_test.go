package demo_test

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/meshlite-go/meshlite/internal/demo"
)

// What is wrong with the options is said before anything is started.
func ExampleRun() {
	_, err := demo.Run(context.Background(), demo.Options{Duration: time.Second, Progress: io.Discard})
	fmt.Println(err)
	// Output: duration 1s is not in 6s to 1h0m0s: write for example --duration=20s
}
