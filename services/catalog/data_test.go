package catalog_test

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/services/catalog"
)

func TestShopIsWellStocked(t *testing.T) {
	sweets := listAll(t, dial(t, shop(t)), "", 100)
	if len(sweets) < 200 {
		t.Errorf("got %d sweets, want 200 at least", len(sweets))
	}
	names, descriptions := make(map[string]bool), make(map[string]bool)
	for _, sweet := range sweets {
		names[sweet.GetName()], descriptions[sweet.GetDescription()] = true, true
	}
	if len(names) != len(sweets) || len(descriptions) != len(sweets) {
		t.Errorf("%d sweets have %d names and %d descriptions", len(sweets), len(names), len(descriptions))
	}
}

func TestLoadNamesLineAndField(t *testing.T) {
	const good = "id,name,section,price_pence,description\nlemon-sherbet,Lemon Sherbet,boiled,120,Sharp.\n"
	for name, test := range map[string]struct{ data, says string }{
		"nothing":            {"", `line 1: header is "": want "id,name,`},
		"another header":     {"id,name\n", `line 1: header is "id,name"`},
		"a field too few":    {good + "a,A,boiled,1\n", "record on line 3: wrong number of fields"},
		"a stray quote":      {good + "a,A \"B\",boiled,1,x\n", "line 3, column"},
		"no id":              {good + ",A,boiled,1,x\n", `line 3: id is ""`},
		"an id in capitals":  {good + "Lime,A,boiled,1,x\n", `line 3: id is "Lime"`},
		"an id twice":        {good + "lemon-sherbet,A,boiled,1,x\n", `line 3: id is "lemon-sherbet" as on line 2`},
		"no name":            {good + "a,,boiled,1,x\n", `line 3: name is ""`},
		"a name in Latin-1":  {good + "a,\xe9clair,boiled,1,x\n", `line 3: name is "\xe9clair"`},
		"an unknown section": {good + "a,A,toffee,1,x\n", `line 3: section is "toffee"`},
		"a free sweet":       {good + "a,A,boiled,0,x\n", `line 3: price_pence is "0"`},
		"a price in pounds":  {good + "a,A,boiled,1.20,x\n", `line 3: price_pence is "1.20"`},
		"a negative price":   {good + "a,A,boiled,-1,x\n", `line 3: price_pence is "-1"`},
		"no description":     {good + "a,A,boiled,1,\n", `line 3: description is ""`},
		"after a long field": {good + "a,A,boiled,1,\"two\nlines\"\nb,B,boiled,no,x\n", `line 5: price_pence is "no"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := catalog.Load(strings.NewReader(test.data))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

// What loads can be sent, and is found under its id.
func FuzzLoad(f *testing.F) {
	own, err := os.ReadFile("sweets.csv")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(own[:1000]) + "\"")
	f.Add("id,name,section,price_pence,description\na,\"A, \"\"quoted\"\"\",chewy,1,x\n")
	f.Fuzz(func(t *testing.T, data string) {
		service, err := catalog.Load(strings.NewReader(data))
		if err != nil {
			return
		}
		page, err := service.ListSweets(t.Context(), &catalogv1.ListSweetsRequest{PageSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proto.Marshal(page); err != nil {
			t.Error(err)
		}
		for _, sweet := range page.GetSweets() {
			found, err := service.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: sweet.GetId()})
			if err != nil || found.GetSweet() != sweet {
				t.Errorf("GetSweet(%q): got %v, %v", sweet.GetId(), found, err)
			}
		}
	})
}

// No page token makes anything worse than an error that can be sent.
func FuzzPageToken(f *testing.F) {
	service, err := catalog.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add("bGVtb24tc2hlcmJldA")
	f.Add("zzzz====")
	f.Fuzz(func(t *testing.T, token string) {
		page, err := service.ListSweets(t.Context(), &catalogv1.ListSweetsRequest{PageToken: token})
		if (page == nil) == (err == nil) {
			t.Errorf("got %v, %v", page, err)
		}
	})
}
