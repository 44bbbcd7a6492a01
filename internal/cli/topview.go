package cli

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/meshlite-go/meshlite/internal/scrape"
)

// measured holds the figures of one interval.
type measured struct {
	time     time.Time
	seconds  float64 // since the one before, 0 for the first
	services []topService
	notes    string // what could not be read from Consul, a line each
}

// topService holds the figures of a service, instances and methods busiest first.
type topService struct {
	name      string
	all       scrape.Figures
	instances []topInstance
	methods   map[string]scrape.Figures
}

type topInstance struct {
	process
	scrape.Figures
}

// add adds the rates of a process, if it answered.
func (s *topService) add(p process, r scrape.Rates) {
	s.instances = append(s.instances, topInstance{p, r.All})
	if p.Error != "" {
		return
	}
	s.all.Add(r.All)
	for name, f := range r.Methods {
		sum := s.methods[name]
		sum.Add(f)
		s.methods[name] = sum
	}
}

func sortedServices(services map[string]*topService) []topService {
	list := make([]topService, 0, len(services))
	for _, s := range services {
		slices.SortFunc(s.instances, func(a, b topInstance) int {
			return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Error, b.Error), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Address, b.Address))
		})
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b topService) int {
		return cmp.Or(cmp.Compare(b.all.Calls, a.all.Calls), cmp.Compare(a.name, b.name))
	})
	return list
}

// busiest are the names of the methods in the order in which they are shown.
func (s topService) busiest() []string {
	names := make([]string, 0, len(s.methods))
	for name := range s.methods {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.methods[b].Calls, s.methods[a].Calls), cmp.Compare(a, b))
	})
	return names
}

// topReport is an interval as JSON.
type topReport struct {
	Time     string          `json:"time"`
	Seconds  float64         `json:"seconds"`
	Services []serviceReport `json:"services"`
	Errors   []string        `json:"errors"`
}

type serviceReport struct {
	Service string `json:"service"`
	figuresReport
	Instances []topInstanceReport `json:"instances"`
	Methods   []methodReport      `json:"methods"`
}

type topInstanceReport struct {
	process
	Share *float64 `json:"share"`
	figuresReport
}

type methodReport struct {
	Method string   `json:"method"`
	Share  *float64 `json:"share"`
	figuresReport
}

// figuresReport has null for unknown figures.
type figuresReport struct {
	Calls    *float64 `json:"calls_per_second"`
	Success  *float64 `json:"success"`
	P50      *float64 `json:"p50_ms"`
	P95      *float64 `json:"p95_ms"`
	P99      *float64 `json:"p99_ms"`
	InFlight *float64 `json:"in_flight"`
	Cache    *float64 `json:"cache"`
	Refused  *float64 `json:"refused_per_second"`
}

func (m measured) report() topReport {
	r := topReport{Time: m.time.UTC().Format(time.RFC3339Nano), Seconds: m.seconds, Services: []serviceReport{}, Errors: []string{}}
	for note := range strings.Lines(m.notes) {
		r.Errors = append(r.Errors, strings.TrimSpace(note))
	}
	for _, s := range m.services {
		one := serviceReport{Service: s.name, figuresReport: reportOf(s.all, s.asked()), Instances: []topInstanceReport{}, Methods: []methodReport{}}
		for _, i := range s.instances {
			one.Instances = append(one.Instances, topInstanceReport{i.process, known(s.share(i.Figures)), reportOf(i.Figures, i.Error == "")})
		}
		for _, name := range s.busiest() {
			f := s.methods[name]
			one.Methods = append(one.Methods, methodReport{name, known(s.share(f)), reportOf(f, true)})
		}
		r.Services = append(r.Services, one)
	}
	return r
}

// asked reports whether any of its instances answered.
func (s topService) asked() bool {
	return slices.ContainsFunc(s.instances, func(i topInstance) bool { return i.Error == "" })
}

// share is the part of the service's calls, NaN if unknown.
func (s topService) share(f scrape.Figures) float64 {
	if !f.Rated || !(s.all.Calls > 0) {
		return math.NaN()
	}
	return f.Calls / s.all.Calls
}

func reportOf(f scrape.Figures, asked bool) figuresReport {
	r := figuresReport{Success: known(f.Success()), Cache: known(f.CacheRatio())}
	if asked {
		r.InFlight = known(f.InFlight)
	}
	if f.Rated {
		r.Calls, r.Refused = known(f.Calls), known(f.Refused)
	}
	for q, to := range map[float64]**float64{0.5: &r.P50, 0.95: &r.P95, 0.99: &r.P99} {
		seconds, _ := f.Latency.Quantile(q)
		*to = known(seconds * 1000)
	}
	return r
}

// known is nil for NaN and infinity.
func known(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	v = math.Round(v*1e6) / 1e6
	return &v
}
