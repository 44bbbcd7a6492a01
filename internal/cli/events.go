package cli

import (
	"fmt"
	"time"
)

// The events of a watch.
const (
	added       = "added"
	removed     = "removed"
	changed     = "changed"
	unavailable = "unavailable" // Consul cannot be asked
	available   = "available"   // Consul can be asked again
)

// event is a line of a watch as JSON.
type event struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Instance *endpoint `json:"instance,omitempty"`
	Error    string    `json:"error,omitempty"` // why Consul cannot be asked

	before endpoint // of what has changed
}

func (f *follower) write(events ...event) error {
	now := time.Now()
	for _, e := range events {
		e.Time = now.UTC()
		var err error
		if f.format == JSON {
			err = writeLine(f.streams.Out, e)
		} else {
			_, err = fmt.Fprintf(f.streams.Out, "%s  %s\n", clock(now), f.line(e))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func clock(t time.Time) string { return t.Format(time.TimeOnly) }

// line is an event for people.
func (f *follower) line(e event) string {
	switch e.Event {
	case added:
		return fmt.Sprintf("+ %s  %s", who(*e.Instance), what(*e.Instance))
	case removed:
		return "- " + who(*e.Instance)
	case changed:
		return fmt.Sprintf("~ %s  %s", who(*e.Instance), changes(e.before, *e.Instance))
	case unavailable:
		return "! " + e.Error
	default:
		return "! " + f.directory.Name() + " answers again"
	}
}
