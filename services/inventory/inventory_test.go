package inventory_test

import (
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inventoryv1 "github.com/meshlite-go/meshlite/proto/sweetshop/inventory/v1"
	"github.com/meshlite-go/meshlite/services/inventory"
)

func stock(t *testing.T, opts inventory.Options) *inventory.Service {
	t.Helper()
	service, err := inventory.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func TestGetStock(t *testing.T) {
	client := dial(t, stock(t, inventory.Options{Grams: 70}))
	for name, test := range map[string]struct {
		ids  []string
		want map[string]uint32
	}{
		"none":       {nil, nil},
		"one":        {[]string{"pear-drops"}, map[string]uint32{"pear-drops": 70}},
		"one, twice": {[]string{"pear-drops", "pear-drops"}, map[string]uint32{"pear-drops": 70}},
		"an unknown": {[]string{"pear-drops", "sprout"}, map[string]uint32{"pear-drops": 70, "sprout": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := client.GetStock(t.Context(), &inventoryv1.GetStockRequest{SweetIds: test.ids})
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.GetGrams(); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestGetStockOfAHundredAtMost(t *testing.T) {
	client := dial(t, stock(t, inventory.Options{}))
	ids := make([]string, 101)
	for i := range ids {
		ids[i] = fmt.Sprint("sweet-", i)
	}
	if _, err := client.GetStock(t.Context(), &inventoryv1.GetStockRequest{SweetIds: ids[:100]}); err != nil {
		t.Error(err)
	}
	_, err := client.GetStock(t.Context(), &inventoryv1.GetStockRequest{SweetIds: ids})
	wantError(t, err, codes.InvalidArgument, "sweet_ids has 101", "100 at most")
}

func TestReserve(t *testing.T) {
	client := dial(t, stock(t, inventory.Options{Grams: 100}))
	for _, test := range []struct {
		name  string
		id    string
		grams uint32
		left  uint32
		code  codes.Code
		says  string
	}{
		{name: "some", id: "pear-drops", grams: 60, left: 40},
		{name: "more than is left", id: "pear-drops", grams: 41, code: codes.FailedPrecondition, says: `only 40 of sweet "pear-drops"`},
		{name: "the rest", id: "pear-drops", grams: 40, left: 0},
		{name: "one too many", id: "pear-drops", grams: 1, code: codes.FailedPrecondition, says: "grams is 1"},
		{name: "another sweet", id: "acid-drops", grams: 1, left: 99},
		{name: "nothing", id: "acid-drops", code: codes.InvalidArgument, says: "grams is 0"},
		{name: "an unknown sweet", id: "sprout", grams: 1, code: codes.NotFound, says: `sweet_id "sprout"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := client.Reserve(t.Context(), &inventoryv1.ReserveRequest{SweetId: test.id, Grams: test.grams})
			wantError(t, err, test.code, test.says)
			if got := answer.GetGramsLeft(); got != test.left {
				t.Errorf("%d grams left, want %d", got, test.left)
			}
		})
	}
}

// wantError checks the code of err, and that its message says what it should.
func wantError(t *testing.T, err error, code codes.Code, says ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	for _, words := range says {
		if err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
}

func TestReserveTogetherTakesNoMoreThanThereIs(t *testing.T) {
	client := dial(t, stock(t, inventory.Options{Grams: 95}))
	var sold atomic.Int64
	var customers sync.WaitGroup
	for range 30 {
		customers.Go(func() {
			_, err := client.Reserve(t.Context(), &inventoryv1.ReserveRequest{SweetId: "pear-drops", Grams: 10})
			switch status.Code(err) {
			case codes.OK:
				sold.Add(1)
			case codes.FailedPrecondition:
			default:
				t.Error(err)
			}
		})
	}
	customers.Wait()
	if got := sold.Load(); got != 9 {
		t.Errorf("sold 10 grams %d times out of 95", got)
	}
}

// The services share no data, so their files must be kept the same.
func TestInventoryHoldsTheCatalog(t *testing.T) {
	file, err := os.Open("../catalog/sweets.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range rows[1:] {
		want = append(want, row[0])
	}
	slices.Sort(want)
	own, err := os.ReadFile("sweets.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(own)); !slices.Equal(got, want) {
		t.Errorf("sweets.txt has %d ids and is not the sorted first column of sweets.csv, which has %d", len(got), len(want))
	}
}
