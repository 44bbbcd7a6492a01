package catalog

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// The number of sweets in a page.
const (
	defaultPageSize = 20
	maxPageSize     = 100
)

// page gives at most size of the sweets that come after the id last, and the
// token of the page behind them, if there is one.
func page(shelf []*catalogv1.Sweet, last string, size int) (sweets []*catalogv1.Sweet, next string) {
	start, found := slices.BinarySearchFunc(shelf, last, compareID)
	if found {
		start++
	}
	rest := shelf[start:]
	if len(rest) <= size {
		return rest, ""
	}
	return rest[:size:size], formatToken(rest[size-1].Id)
}

func compareID(s *catalogv1.Sweet, id string) int { return strings.Compare(s.Id, id) }

func pageSize(asked uint32) (int, error) {
	if asked == 0 {
		return defaultPageSize, nil
	}
	if asked > maxPageSize {
		return 0, fmt.Errorf("page_size is %d: use 1 to %d, or none for %d", asked, maxPageSize, defaultPageSize)
	}
	return int(asked), nil
}

// formatToken makes a page token of the last id that was given rather than of a
// position: it holds on every replica, with older and newer data too.
func formatToken(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(last))
}

func parseToken(token string) (last string, err error) {
	if token == "" {
		return "", nil
	}
	id, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || !isID(string(id)) {
		return "", fmt.Errorf("page_token is %.40q: use the next_page_token of the page before, or none for the first", token)
	}
	return string(id), nil
}
