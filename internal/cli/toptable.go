package cli

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meshlite-go/meshlite/internal/scrape"
)

const (
	pipedRows = 60 // of a table that scrolls
	narrowest = 19 // that the column of names may become for the others
	indent    = "  "
)

// topColumn is a figure, and how much it matters where there is no room for all.
type topColumn struct {
	head  string
	width int
	rank  int // the highest goes first
	text  func(s topService, f scrape.Figures) string
}

var topColumns = []topColumn{
	{"CALLS/S", 7, 0, func(_ topService, f scrape.Figures) string { return rated(f, perSecond(f.Calls)) }},
	{"OK", 6, 1, func(_ topService, f scrape.Figures) string { return successText(f.Success()) }},
	{"P50", 5, 4, func(_ topService, f scrape.Figures) string { return quantileText(f.Latency, 0.5) }},
	{"P95", 5, 7, func(_ topService, f scrape.Figures) string { return quantileText(f.Latency, 0.95) }},
	{"P99", 5, 2, func(_ topService, f scrape.Figures) string { return quantileText(f.Latency, 0.99) }},
	{"ACTIVE", 6, 3, func(_ topService, f scrape.Figures) string { return countText(f.InFlight) }},
	{"SHARE", 5, 6, func(s topService, f scrape.Figures) string { return partText(s.share(f)) }},
	{"CACHE", 5, 8, func(_ topService, f scrape.Figures) string { return partText(f.CacheRatio()) }},
	{"REFUSED", 7, 5, func(_ topService, f scrape.Figures) string { return rated(f, perSecond(f.Refused)) }},
}

// topTable is written within a width.
type topTable struct {
	columns []topColumn
	names   int // width of their column
	width   int
	lines   []string
}

// lines are what there is room for.
func (m measured) lines(width, height int, methods bool) []string {
	t := &topTable{width: width}
	t.fit(m.services, methods)
	foot := m.foot(width)
	t.add(clipped(m.title(), width))
	t.row("SERVICE", func(c topColumn) string { return c.head })
	room := max(height-len(t.lines)-len(foot), 1)
	services := m.services
	if len(services) > room {
		services = services[:max(room-1, 0)]
	}
	below := perService(services, room, methods)
	for _, s := range services {
		name := cell(s.name)
		t.row(clipped(name, t.names), func(c topColumn) string { return c.ofService(s) })
		t.below(s, below, methods)
	}
	if more := len(m.services) - len(services); more > 0 {
		t.add(fmt.Sprintf("and %d more services", more))
	}
	return append(t.lines, foot...)
}

// title says what the figures are of.
func (m measured) title() string {
	all, not := 0, 0
	for _, s := range m.services {
		for _, i := range s.instances {
			all++
			if i.Error != "" {
				not++
			}
		}
	}
	text := clock(m.time) + "  " + ofProcesses(all)
	if not > 0 {
		text += fmt.Sprintf(", %d not asked", not)
	}
	if m.seconds == 0 {
		return text + ", measuring"
	}
	return text + ", over " + time.Duration(math.Round(m.seconds*10)*1e8).String()
}

// foot has the full reasons why processes could not be asked, each once, and what could
// not be read from Consul.
func (m measured) foot(width int) []string {
	var unasked []process
	for _, s := range m.services {
		for _, i := range s.instances {
			unasked = append(unasked, i.process)
		}
	}
	var text strings.Builder
	writeUnasked(&text, unasked)
	text.WriteString(m.notes)
	if text.Len() == 0 {
		return nil
	}
	lines := []string{""}
	for line := range strings.Lines(text.String()) {
		lines = append(lines, broken(strings.TrimSpace(line), width)...)
	}
	return lines[:min(len(lines), 9)]
}

// broken breaks a line between words.
func broken(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, clipped(line, width)), indent+word
		}
	}
	return append(lines, clipped(line, width))
}

// perService is how many rows each service may have below its own, so that all fit in
// room: what one does not need, others have.
func perService(services []topService, room int, methods bool) int {
	most, need := 0, func(each int) int {
		n := 0
		for _, s := range services {
			n += 1 + min(s.rows(methods), each)
			if each > 0 && s.rows(methods) > each {
				n++ // and n more
			}
		}
		return n
	}
	for _, s := range services {
		most = max(most, s.rows(methods))
	}
	for each := most; each > 0; each-- {
		if need(each) <= room {
			return each
		}
	}
	return 0
}

// rows are how many there are below the service's own. A program that is no instance has
// none of its own.
func (s topService) rows(methods bool) int {
	switch {
	case methods:
		return len(s.methods)
	case len(s.instances) == 1 && s.instances[0].Address == s.name && s.instances[0].Error == "":
		return 0
	default:
		return len(s.instances)
	}
}

// below writes most rows of what is in a service, and how many there are beside.
func (t *topTable) below(s topService, most int, methods bool) {
	n := min(s.rows(methods), most)
	if methods {
		names, alike := s.busiest(), s.alike()
		for _, name := range names[:n] {
			f := s.methods[name]
			t.row(indent+methodLabel(cell(name), alike, t.names-len(indent)), func(c topColumn) string { return c.text(s, f) })
		}
	} else {
		for _, i := range s.instances[:n] {
			t.instance(s, i)
		}
	}
	if more := s.rows(methods) - n; more > 0 && most > 0 {
		t.add(fmt.Sprintf("%sand %d more", indent, more))
	}
}

func (t *topTable) instance(s topService, i topInstance) {
	name := indent + instanceLabel(s, i, t.names-len(indent))
	if i.Error != "" {
		t.add(clipped(fmt.Sprintf("%-*s %s", t.names, name, i.Error), t.width))
		return
	}
	t.row(name, func(c topColumn) string { return c.text(s, i.Figures) })
}

// fit leaves out columns until names have room, and gives them what they need if it is there.
func (t *topTable) fit(services []topService, methods bool) {
	longest := len("SERVICE")
	for _, s := range services {
		longest = max(longest, utf8.RuneCountInString(cell(s.name)))
		if methods {
			for name := range s.methods {
				longest = max(longest, len(indent)+utf8.RuneCountInString(cell(name)))
			}
			continue
		}
		for _, i := range s.instances {
			longest = max(longest, len(indent)+utf8.RuneCountInString(i.label()))
		}
	}
	t.columns = append([]topColumn{}, topColumns...)
	for t.rest() < min(narrowest, longest) && len(t.columns) > 1 {
		last := 0
		for i, c := range t.columns {
			if c.rank > t.columns[last].rank {
				last = i
			}
		}
		t.columns = append(t.columns[:last], t.columns[last+1:]...)
	}
	t.names = max(min(longest, t.rest()), 1)
}

// rest is what the columns leave of the width.
func (t *topTable) rest() int {
	rest := t.width
	for _, c := range t.columns {
		rest -= 1 + c.width
	}
	return rest
}

func (t *topTable) row(name string, text func(topColumn) string) {
	line := name + strings.Repeat(" ", max(t.names-utf8.RuneCountInString(name), 0))
	for _, c := range t.columns {
		line += fmt.Sprintf(" %*s", c.width, text(c))
	}
	t.add(clipped(line, t.width))
}

func (t *topTable) add(line string) { t.lines = append(t.lines, line) }

// ofService leaves out the columns that are meaningless for a whole service.
func (c topColumn) ofService(s topService) string {
	switch {
	case c.head == "SHARE":
		return ""
	case !s.asked():
		return "-"
	default:
		return c.text(s, s.all)
	}
}

// label is an instance for people.
func (i topInstance) label() string {
	if i.ID == "" {
		return oneLine(i.Address)
	}
	return oneLine(i.ID)
}

// instanceLabel leaves out the name of the service, which stands above, before it cuts.
func instanceLabel(s topService, i topInstance, width int) string {
	label := i.label()
	if utf8.RuneCountInString(label) > width {
		label = strings.TrimPrefix(label, s.name+"-")
	}
	return end(label, width)
}

// alike reports whether methods of several services of gRPC have one name.
func (s topService) alike() bool {
	seen := map[string]bool{}
	for name := range s.methods {
		_, method, _ := strings.Cut(name, "/")
		if seen[method] {
			return true
		}
		seen[method] = true
	}
	return false
}

// methodLabel leaves out the package, and then the service unless there are methods that are
// called alike, before it cuts.
func methodLabel(name string, alike bool, width int) string {
	service, method, _ := strings.Cut(name, "/")
	short := service[strings.LastIndex(service, ".")+1:] + "/" + method
	switch {
	case utf8.RuneCountInString(name) <= width:
		return name
	case alike || utf8.RuneCountInString(short) <= width:
		return end(short, width)
	default:
		return end(method, width)
	}
}

// clipped cuts what is too long at its end, and end at its begin, where names differ least.
func clipped(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}

func end(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-max(width-1, 0):])
}
