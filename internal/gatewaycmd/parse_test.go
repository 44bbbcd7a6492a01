package gatewaycmd

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/meshlite-go/meshlite/gateway/edge"
	"github.com/meshlite-go/meshlite/internal/cli"
)

// isUsage checks that err is of the command line, and says what is wrong and what to write.
func isUsage(t *testing.T, what string, err error, flag string) {
	t.Helper()
	var coded *cli.Error
	if !errors.As(err, &coded) || coded.Code != cli.ExitUsage || !strings.HasPrefix(err.Error(), flag) || !strings.Contains(err.Error(), ": ") {
		t.Errorf("%s: %v, want an error of the command line that begins with %q", what, err, flag)
	}
}

func TestServices(t *testing.T) {
	got, err := parseServices([]string{"catalog", "orders=shop.v1.Orders,shop.v1.Admin/List"})
	want := []service{{name: "catalog"}, {name: "orders", names: []string{"shop.v1.Orders", "shop.v1.Admin/List"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, args := range [][]string{{""}, {"=a.B"}, {"a,b"}, {"consul:///catalog"}, {"a="}, {"a=b.C,"}, {"a=b.C/"}, {"a=/b"}, {"a=b-c"}, {"a=b.C/D/E"}, {"a", "a=b.C"}} {
		_, err := parseServices(args)
		isUsage(t, fmt.Sprint(args), err, "service ")
	}
}

func TestSites(t *testing.T) {
	got, err := parseSites([]string{"web=/web/", "docs=/,http://127.0.0.1:8000,https://docs.local/base"})
	want := []site{{"web", "/web/", []string{}}, {"docs", "/", []string{"http://127.0.0.1:8000", "https://docs.local/base"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, values := range [][]string{
		{""}, {"web"}, {"=/web/"}, {"web=web"}, {"web=/web"}, {"web=web/"}, {"web=/a//b/"}, {"web=/a b/"}, {"web=/{a}/"}, {"web=/w/,"},
		{"web=/w/,127.0.0.1:80"}, {"web=/w/,ftp://a"}, {"web=/w/,http://u:secret@a"}, {"web=/w/,http://a?b"}, {"web=/w/", "web=/x/"}, {"web=/w/", "x=/w/"},
	} {
		_, err := parseSites(values)
		isUsage(t, fmt.Sprint(values), err, "--http ")
	}
}

func TestPrefixes(t *testing.T) {
	got, err := parsePrefixes([]string{"10.1.2.3/8", "::1", "192.0.2.1", "::ffff:192.0.2.2"})
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	for _, value := range []string{"", "localhost", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1:80", "::ffff:10.0.0.0/104"} {
		_, err := parsePrefixes([]string{value})
		isUsage(t, value, err, "--trusted-proxies ")
	}
}

func TestLimits(t *testing.T) {
	got, err := parseLimits([]string{"address=100/1m", "subject=10/s", "header X-Api-Key=5/1h30m@/v1/", "address=3/d@/login"})
	want := []edge.Limit{
		{Name: "address-100-1m", Key: edge.ByAddress, Limit: 100, Period: time.Minute},
		{Name: "subject-10-s", Key: edge.BySubject, Limit: 10, Period: time.Second},
		{Name: "header-X-Api-Key-5-1h30m--v1", Key: "header X-Api-Key", Limit: 5, Period: 90 * time.Minute, Paths: []string{"/v1/"}},
		{Name: "address-3-d--login", Key: edge.ByAddress, Limit: 3, Period: 24 * time.Hour, Paths: []string{"/login"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	if _, err := edge.New(edge.Config{Limits: got}); err != nil {
		t.Errorf("the edge refuses them: %v", err)
	}
	for _, values := range [][]string{
		{""}, {"address"}, {"address=100"}, {"address=100/"}, {"address=/1m"}, {"address=0/1m"}, {"address=-1/1m"}, {"address=1/0s"}, {"address=1/x"},
		{"ip=1/1m"}, {"header =1/1m"}, {"header=1/1m"}, {"address=1/1m@v1"}, {"address=1/1m", "address=1/1m"},
	} {
		_, err := parseLimits(values)
		isUsage(t, fmt.Sprint(values), err, "--limit ")
	}
}

func TestDescriptors(t *testing.T) {
	services := []service{{name: "catalog"}}
	got, err := parseDescriptors([]string{"catalog=a.binpb", "catalog=b=c.binpb"}, services)
	if want := map[string][]string{"catalog": {"a.binpb", "b=c.binpb"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	for _, value := range []string{"", "a.binpb", "catalog=", "orders=a.binpb"} {
		_, err := parseDescriptors([]string{value}, services)
		isUsage(t, value, err, "--descriptors ")
	}
}
