package shop_test

import (
	"context"
	"fmt"

	"github.com/meshlite-go/meshlite/internal/shop"
)

// A registry for a test, and what it is called.
func ExampleStartRegistry() {
	registry, err := shop.StartRegistry(context.Background(), shop.Embedded)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer registry.Stop()
	fmt.Println(registry.Name)
	// Output: embedded
}
