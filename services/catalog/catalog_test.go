package catalog_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
	"github.com/meshlite-go/meshlite/services/catalog"
)

func shop(t *testing.T) *catalog.Service {
	t.Helper()
	service, err := catalog.New()
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// wantError checks that err has the code, and that its message says all of words.
func wantError(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestSectionsHoldEverySweet(t *testing.T) {
	client := dial(t, shop(t))
	answer, err := client.ListSections(t.Context(), &catalogv1.ListSectionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, section := range answer.GetSections() {
		ids = append(ids, section.GetId())
		sweets := listAll(t, client, section.GetId(), 0)
		if got := uint32(len(sweets)); got != section.GetSweets() {
			t.Errorf("%s holds %d sweets and says %d", section.GetId(), got, section.GetSweets())
		}
	}
	if want := []string{"boiled", "chocolate", "chewy"}; !slices.Equal(ids, want) {
		t.Errorf("got sections %v, want %v", ids, want)
	}
}

func TestPagesGiveEverySweetOnce(t *testing.T) {
	client := dial(t, shop(t))
	for _, size := range []uint32{0, 1, 7, 20, 76, 77, 100} {
		all := listAll(t, client, "", size)
		var parts []*catalogv1.Sweet
		for _, section := range []string{"boiled", "chocolate", "chewy"} {
			parts = append(parts, listAll(t, client, section, size)...)
		}
		got, want := ids(all), ids(parts)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("page size %d: all sections give %d sweets, one by one they give %d", size, len(got), len(want))
		}
		if len(slices.Compact(got)) != len(want) {
			t.Errorf("page size %d: a sweet came twice", size)
		}
	}
}

// listAll follows the page tokens to the end.
func listAll(t *testing.T, client catalogv1.CatalogServiceClient, section string, size uint32) (sweets []*catalogv1.Sweet) {
	t.Helper()
	req := &catalogv1.ListSweetsRequest{Section: section, PageSize: size}
	for {
		page, err := client.ListSweets(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(page.GetSweets()); size > 0 && got > int(size) || size == 0 && got > 20 {
			t.Fatalf("page size %d gave %d sweets", size, got)
		}
		sweets = append(sweets, page.GetSweets()...)
		req.PageToken = page.GetNextPageToken()
		if req.PageToken == "" {
			return sweets
		}
	}
}

func ids(sweets []*catalogv1.Sweet) []string {
	ids := make([]string, len(sweets))
	for i, sweet := range sweets {
		ids[i] = sweet.GetId()
	}
	return ids
}

// A page token goes on where the page ended, although another replica has other data.
func TestPageTokenOutlivesItsSweet(t *testing.T) {
	const header = "id,name,section,price_pence,description\n"
	token := nextToken(t, header+"a,A,chewy,1,x\nb,B,chewy,1,x\nc,C,chewy,1,x\n")
	service, err := catalog.Load(strings.NewReader(header + "a,A,chewy,1,x\nbb,BB,chewy,1,x\nc,C,chewy,1,x\n"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := service.ListSweets(t.Context(), &catalogv1.ListSweetsRequest{PageToken: token})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ids(page.GetSweets()), []string{"bb", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %v after b, want %v", got, want)
	}
}

// nextToken is what comes with the first two sweets of a data file.
func nextToken(t *testing.T, data string) string {
	t.Helper()
	service, err := catalog.Load(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	page, err := service.ListSweets(t.Context(), &catalogv1.ListSweetsRequest{PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	return page.GetNextPageToken()
}

func TestListSweetsRefuses(t *testing.T) {
	client := dial(t, shop(t))
	for name, test := range map[string]struct {
		req  *catalogv1.ListSweetsRequest
		says []string
	}{
		"an unknown section":        {&catalogv1.ListSweetsRequest{Section: "toffee"}, []string{"section", `"toffee"`, "boiled, chocolate, chewy"}},
		"a page too large":          {&catalogv1.ListSweetsRequest{PageSize: 101}, []string{"page_size", "101", "1 to 100"}},
		"a token of its own making": {&catalogv1.ListSweetsRequest{PageToken: "page 2"}, []string{"page_token", `"page 2"`, "next_page_token"}},
		"a token that is no id":     {&catalogv1.ListSweetsRequest{PageToken: "AAAA"}, []string{"page_token", `"AAAA"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.ListSweets(t.Context(), test.req)
			wantError(t, err, codes.InvalidArgument, test.says...)
		})
	}
}

func TestGetSweet(t *testing.T) {
	client := dial(t, shop(t))
	answer, err := client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "lemon-sherbet"})
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.GetSweet(); got.GetName() != "Lemon Sherbet" || got.GetSection() != "boiled" {
		t.Errorf("got %v", got)
	}
	_, err = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: "brussels-sprout"})
	wantError(t, err, codes.NotFound, `"brussels-sprout"`)
	_, err = client.GetSweet(t.Context(), &catalogv1.GetSweetRequest{})
	wantError(t, err, codes.InvalidArgument, "id is empty")
}

// A long id must not come back whole: messages travel in headers.
func TestLongIDIsCutInTheMessage(t *testing.T) {
	_, err := shop(t).GetSweet(t.Context(), &catalogv1.GetSweetRequest{Id: strings.Repeat("x", 1<<20)})
	wantError(t, err, codes.NotFound)
	if got := len(err.Error()); got > 200 {
		t.Errorf("the message has %d bytes", got)
	}
}
