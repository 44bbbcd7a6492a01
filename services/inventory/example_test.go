package inventory_test

import (
	"context"
	"fmt"
	"time"

	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	"github.com/meshlite-go/meshlite/services/inventory"
)

func Example() {
	stock, err := inventory.New(inventory.Options{Latency: 2 * time.Millisecond, Grams: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := stock.Reserve(context.Background(), &inventoryv1.ReserveRequest{SweetId: "pear-drops", Grams: 250})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.GetGramsLeft(), "grams left")
	// Output:
	// 750 grams left
}
