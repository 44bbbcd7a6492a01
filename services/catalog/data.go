package catalog

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

// header is the first line of a data file.
const header = "id,name,section,price_pence,description"

// sections are the shelves of the shop, in the order in which they are shown.
func sections() []*catalogv1.Section {
	return []*catalogv1.Section{
		{Id: "boiled", Name: "Boiled sweets"},
		{Id: "chocolate", Name: "Chocolates"},
		{Id: "chewy", Name: "Chewy sweets"},
	}
}

// readSweets gives the sweets of a data file in its order.
func readSweets(r io.Reader) ([]*catalogv1.Sweet, error) {
	rows := csv.NewReader(r)
	if err := readHeader(rows); err != nil {
		return nil, err
	}
	var sweets []*catalogv1.Sweet
	lines := make(map[string]int) // by id
	for {
		row, err := rows.Read()
		if err == io.EOF {
			return sweets, nil
		}
		if err != nil {
			return nil, err // names the line
		}
		line, _ := rows.FieldPos(0)
		sweet, err := parseSweet(row)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if first, twice := lines[sweet.Id]; twice {
			return nil, fmt.Errorf("line %d: id is %q as on line %d: want another", line, sweet.Id, first)
		}
		lines[sweet.Id] = line
		sweets = append(sweets, sweet)
	}
}

func readHeader(rows *csv.Reader) error {
	row, err := rows.Read()
	if err != nil && err != io.EOF {
		return err
	}
	if got := strings.Join(row, ","); got != header {
		return fmt.Errorf("line 1: header is %.80q: want %q", got, header)
	}
	return nil
}

func parseSweet(row []string) (*catalogv1.Sweet, error) {
	price, err := strconv.ParseUint(row[3], 10, 32)
	sweet := &catalogv1.Sweet{Id: row[0], Name: row[1], Section: row[2], PricePence: uint32(price), Description: row[4]}
	switch {
	case !isID(sweet.Id):
		return nil, fmt.Errorf("id is %.40q: want lower-case letters, digits and hyphens", sweet.Id)
	case !isText(sweet.Name):
		return nil, fmt.Errorf("name is %.40q: want text in UTF-8", sweet.Name)
	case !isSection(sweet.Section):
		return nil, fmt.Errorf("section is %.40q: want a section of the shop", sweet.Section)
	case err != nil || price == 0:
		return nil, fmt.Errorf("price_pence is %.40q: want a whole number above 0", row[3])
	case !isText(sweet.Description):
		return nil, fmt.Errorf("description is %.40q: want text in UTF-8", sweet.Description)
	}
	return sweet, nil
}

func isID(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func isText(s string) bool {
	return s != "" && utf8.ValidString(s)
}

func isSection(id string) bool {
	return slices.ContainsFunc(sections(), func(s *catalogv1.Section) bool { return s.Id == id })
}
