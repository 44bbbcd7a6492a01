package catalog_test

import (
	"context"
	"fmt"
	"strings"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/services/catalog"
)

func Example() {
	sweets, err := catalog.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := sweets.GetSweet(context.Background(), &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
	if err != nil {
		fmt.Println(err)
		return
	}
	sweet := answer.GetSweet()
	fmt.Printf("%s, %dp: %s\n", sweet.GetName(), sweet.GetPricePence(), sweet.GetDescription())
	// Output:
	// Lemon Sherbet, 120p: A sharp lemon shell around a heart of fizzing sherbet.
}

func ExampleLoad() {
	_, err := catalog.Load(strings.NewReader(`id,name,section,price_pence,description
lemon-sherbet,Lemon Sherbet,boiled,free,"Sharp, then it fizzes."
`))
	fmt.Println(err)
	// Output:
	// line 2: price_pence is "free": want a whole number above 0
}
