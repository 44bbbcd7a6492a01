package resolver_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/resolver"
)

// A clean restart of the only instance is no warning, and "nothing is held" is logged
// only when something was.
func TestWhatIsLoggedOfInstancesThatLeave(t *testing.T) {
	for name, test := range map[string]struct {
		script func(*scene)
		want   []string // level and the begin of the message
	}{
		"the only one restarts": {func(s *scene) {
			s.answer(1)
			s.answer()
			time.Sleep(3 * time.Second)
			s.answer(2)
			time.Sleep(time.Minute)
			s.endpoints()
		}, []string{"INFO the only instance has left", "INFO discovery works again, and nothing is held"}},
		"the only one leaves for good": {func(s *scene) {
			s.answer(1)
			s.answer()
			time.Sleep(time.Minute)
			s.endpoints()
			s.answer(2)
		}, []string{"INFO the only instance has left", "WARN no instance is left", "INFO discovery works again"}},
		"most leave at once": {func(s *scene) {
			s.answer(upTo(10)...)
			s.answer(3, 4)
			time.Sleep(time.Minute)
			s.endpoints()
		}, []string{"WARN too many instances vanished at once", "INFO discovery works again, and nothing is held"}},
		"an outage": {func(s *scene) {
			s.answer(1, 2)
			s.directory.fail(errors.New("refused"))
			s.endpoints()
			s.answer(1, 2)
		}, []string{"WARN discovery fails: calls go on", "INFO discovery works again"}},
		"no instance at the start": {func(s *scene) { s.answer(); s.answer(1) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lines bytes.Buffer
				test.script(newScene(t, "consul:///catalog", resolver.WithLogger(slog.New(slog.NewTextHandler(&lines, nil)))))
				synctest.Wait()
				var got []string
				for line := range strings.Lines(lines.String()) {
					_, rest, _ := strings.Cut(line, "level=")
					level, rest, _ := strings.Cut(rest, " msg=")
					message, _, _ := strings.Cut(strings.TrimPrefix(rest, `"`), `"`)
					got = append(got, level+" "+message)
				}
				if len(got) != len(test.want) {
					t.Fatalf("logged %q, want %q", got, test.want)
				}
				for i, want := range test.want {
					if !strings.HasPrefix(got[i], want) || want == "INFO discovery works again" && got[i] != want {
						t.Errorf("line %d is %q, want %q", i, got[i], want)
					}
				}
			})
		})
	}
}
