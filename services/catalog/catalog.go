// Package catalog is a service of the sweet shop: it lists which sweets there
// are. They come from a file inside the binary and never change while it runs,
// so that the answers can be cached by whoever asks.
//
//	sweets, err := catalog.New()
//	catalogv1.RegisterCatalogServiceServer(server, sweets)
package catalog

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/meshlite-go/meshlite/proto/sweetshop/catalog/v1"
)

//go:embed sweets.csv
var sweetsFile string

// Service implements CatalogServiceServer. It is safe for concurrent use.
type Service struct {
	catalogv1.UnimplementedCatalogServiceServer

	sections []*catalogv1.Section
	shelves  map[string][]*catalogv1.Sweet // by section, "" has all; sorted by id
	sweets   map[string]*catalogv1.Sweet   // by id
}

// New is the catalog of the shop's own sweets.
func New() (*Service, error) {
	service, err := Load(strings.NewReader(sweetsFile))
	if err != nil {
		return nil, fmt.Errorf("sweets.csv: %w", err)
	}
	return service, nil
}

// Load reads a catalog from CSV whose first line is
// "id,name,section,price_pence,description". An error names the line and the field.
func Load(r io.Reader) (*Service, error) {
	sweets, err := readSweets(r)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(sweets, func(a, b *catalogv1.Sweet) int { return compareID(a, b.Id) })
	s := &Service{
		sections: sections(),
		shelves:  map[string][]*catalogv1.Sweet{"": sweets},
		sweets:   make(map[string]*catalogv1.Sweet, len(sweets)),
	}
	for _, section := range s.sections {
		s.shelves[section.Id] = nil // an empty section is known too
	}
	for _, sweet := range sweets {
		s.sweets[sweet.Id] = sweet
		s.shelves[sweet.Section] = append(s.shelves[sweet.Section], sweet)
	}
	for _, section := range s.sections {
		section.Sweets = uint32(len(s.shelves[section.Id]))
	}
	return s, nil
}

// ListSections names the sections of the shop.
func (s *Service) ListSections(context.Context, *catalogv1.ListSectionsRequest) (*catalogv1.ListSectionsResponse, error) {
	return &catalogv1.ListSectionsResponse{Sections: s.sections}, nil
}

// ListSweets gives one page of a section, sorted by id. An unknown section, a
// bad page size or page token is INVALID_ARGUMENT.
func (s *Service) ListSweets(_ context.Context, req *catalogv1.ListSweetsRequest) (*catalogv1.ListSweetsResponse, error) {
	shelf, known := s.shelves[req.GetSection()]
	if !known {
		return nil, status.Errorf(codes.InvalidArgument, "section %.40q is unknown: use %s, or none for all", req.GetSection(), s.sectionIDs())
	}
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	last, err := parseToken(req.GetPageToken())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	sweets, next := page(shelf, last, size)
	return &catalogv1.ListSweetsResponse{Sweets: sweets, NextPageToken: next}, nil
}

// GetSweet gives one sweet, or NOT_FOUND.
func (s *Service) GetSweet(_ context.Context, req *catalogv1.GetSweetRequest) (*catalogv1.GetSweetResponse, error) {
	if req.GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, `id is empty: name a sweet, such as "lemon-sherbet"`)
	}
	sweet, known := s.sweets[req.GetId()]
	if !known {
		return nil, status.Errorf(codes.NotFound, "sweet %.40q is not in the catalog: ListSweets has the ids", req.GetId())
	}
	return &catalogv1.GetSweetResponse{Sweet: sweet}, nil
}

func (s *Service) sectionIDs() string {
	ids := make([]string, len(s.sections))
	for i, section := range s.sections {
		ids[i] = section.Id
	}
	return strings.Join(ids, ", ")
}
