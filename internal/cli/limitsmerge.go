package cli

import (
	"cmp"
	"slices"

	"github.com/meshlite-go/meshlite/internal/limitspage"
)

// counted is what limiters of one name count in all processes.
type counted struct {
	name      string
	processes int
	limitspage.Counts
}

// limitRow is one limit in all processes that have it so.
type limitRow struct {
	limiter string
	limitspage.Rule
	refused, shadowed uint64
	used              float64 // by the hottest key, 0 if none is hot
	processes, of     int     // that have it so, and in any way
}

// hotKeyRow is a key in one process: each counts by itself.
type hotKeyRow struct {
	limiter, process string
	limitspage.HotKey
}

// runningRow is a method in all processes.
type runningRow struct {
	limiter, method string
	adaptive        bool
	inFlight, limit int64
	refused         uint64
	fullest         limitspage.Method
	process         string // the fullest
}

// countedOf are those that limit something or have held calls back.
func countedOf(all []limited) []counted {
	var rows []counted
	for _, p := range all {
		for _, l := range p.Limiters {
			if len(l.Limits) == 0 && l.Counts == (limitspage.Counts{}) {
				continue
			}
			i := slices.IndexFunc(rows, func(c counted) bool { return c.name == l.Name })
			if i < 0 {
				i, rows = len(rows), append(rows, counted{name: l.Name})
			}
			rows[i].add(l.Counts)
		}
	}
	slices.SortStableFunc(rows, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.Refused+b.HeldBack, a.Refused+a.HeldBack), cmp.Compare(b.Shadowed, a.Shadowed))
	})
	return rows
}

func (c *counted) add(more limitspage.Counts) {
	c.processes++
	c.Admitted += more.Admitted
	c.Refused += more.Refused
	c.Shadowed += more.Shadowed
	c.Waited += more.Waited
	c.Refunded += more.Refunded
	c.HeldBack += more.HeldBack
}

// limitRowsOf sorts by what the hottest key has used.
func limitRowsOf(all []limited) []limitRow {
	type key struct {
		limiter string
		limitspage.Rule
	}
	type id struct {
		limiter string
		limitspage.ID
	}
	rows, ways := map[key]*limitRow{}, map[id]int{}
	for _, p := range all {
		for _, l := range p.Limiters {
			used := usedOf(l.HotKeys)
			for _, limit := range l.Limits {
				at := key{l.Name, limit.Rule}
				if rows[at] == nil {
					rows[at] = &limitRow{limiter: l.Name, Rule: limit.Rule}
				}
				rows[at].add(limit, used[limit.ID])
				ways[id{l.Name, limit.ID}]++
			}
		}
	}
	sorted := make([]limitRow, 0, len(rows))
	for _, row := range rows {
		row.of = ways[id{row.limiter, row.ID}]
		sorted = append(sorted, *row)
	}
	slices.SortFunc(sorted, func(a, b limitRow) int {
		return cmp.Or(cmp.Compare(b.used, a.used), cmp.Compare(b.refused+b.shadowed, a.refused+a.shadowed),
			cmp.Compare(a.Method, b.Method), cmp.Compare(b.Side, a.Side), cmp.Compare(a.Name, b.Name), cmp.Compare(a.limiter, b.limiter),
			cmp.Compare(b.processes, a.processes), cmp.Compare(describe(a.Rule), describe(b.Rule)))
	})
	return sorted
}

func (r *limitRow) add(limit limitspage.Limit, used float64) {
	r.processes++
	r.refused += limit.Refused
	r.shadowed += limit.Shadowed
	r.used = max(r.used, used)
}

// usedOf is what the hottest key has used of each limit.
func usedOf(hot []limitspage.HotKey) map[limitspage.ID]float64 {
	used := map[limitspage.ID]float64{}
	for _, n := range hot {
		used[n.ID] = max(used[n.ID], n.Used)
	}
	return used
}

// hotKeyRowsOf sorts by what the key has used.
func hotKeyRowsOf(all []limited) []hotKeyRow {
	var rows []hotKeyRow
	for _, p := range all {
		for _, l := range p.Limiters {
			for _, n := range l.HotKeys {
				rows = append(rows, hotKeyRow{l.Name, p.short(), n})
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b hotKeyRow) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(b.ResetSeconds, a.ResetSeconds))
	})
	return rows
}

// short is the process for a column.
func (p process) short() string { return cell(cmp.Or(p.ID, p.Address)) }

// runningRowsOf has the method first of which a process is fullest.
func runningRowsOf(all []limited) []runningRow {
	type key struct{ limiter, method string }
	rows := map[key]*runningRow{}
	for _, p := range all {
		for _, c := range p.Concurrency {
			for _, m := range c.Methods {
				at := key{c.Name, m.Method}
				if rows[at] == nil {
					rows[at] = &runningRow{limiter: c.Name, method: m.Method}
				}
				rows[at].add(m, p.short())
			}
		}
	}
	sorted := make([]runningRow, 0, len(rows))
	for _, row := range rows {
		sorted = append(sorted, *row)
	}
	slices.SortFunc(sorted, func(a, b runningRow) int {
		return cmp.Or(compareFull(b.fullest, a.fullest), cmp.Compare(b.refused, a.refused), cmp.Compare(a.method, b.method), cmp.Compare(a.limiter, b.limiter))
	})
	return sorted
}

func (r *runningRow) add(m limitspage.Method, process string) {
	r.adaptive = r.adaptive || m.Adaptive
	r.inFlight += m.InFlight
	r.limit += m.Limit
	r.refused += m.Refused
	if r.process == "" || compareFull(m, r.fullest) > 0 {
		r.fullest, r.process = m, process
	}
}

func compareFull(a, b limitspage.Method) int {
	return cmp.Or(cmp.Compare(fullness(a), fullness(b)), cmp.Compare(a.Refused, b.Refused))
}

// fullness is running calls divided by the limit.
func fullness(m limitspage.Method) float64 {
	if m.Limit <= 0 {
		return 0
	}
	return float64(m.InFlight) / float64(m.Limit)
}
