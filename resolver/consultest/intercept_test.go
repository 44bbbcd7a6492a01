package consultest_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/meshlite-go/meshlite/resolver/consultest"
)

// Who alters the agent's answer is given none while a query waits, and when a fault
// comes is asked again instead of taking nothing for an answer.
func TestInterceptSeesOnlyWholeAnswers(t *testing.T) {
	eachWay(t, func(t *testing.T, s *consultest.Server, c *http.Client) {
		client := agentOver(t, c)
		must(t, s.Register(consultest.Service{Name: "web"}))
		_, meta := health(t, client, "web", false)
		came := make(chan struct{}, 2)
		s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			came <- struct{}{}
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			if rec.Body.Len() == 0 {
				t.Error("the agent's answer is empty")
			}
			maps.Copy(w.Header(), rec.Header())
			_, _ = w.Write(rec.Body.Bytes())
			return true
		})
		waiting := ask(client, "web", &api.QueryOptions{WaitIndex: meta.LastIndex})
		<-came
		s.Inject(consultest.Empty())
		if got := <-waiting; got.err != nil || got.shown != "" || got.index <= meta.LastIndex {
			t.Errorf("got %+v, want an empty list with an index above %d", got, meta.LastIndex)
		}
	})
}

// A request made while another is answered is one of its own, even with its context.
func TestRequestsWithinIntercept(t *testing.T) {
	s, client := newAgent(t)
	must(t, s.Register(consultest.Service{Name: "web"}))
	s.Inject(consultest.Empty())
	s.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/health/service/outer" {
			return false
		}
		entries, _, err := client.Health().Service("web", "", false, (&api.QueryOptions{}).WithContext(r.Context()))
		if err != nil || len(entries) > 0 {
			t.Errorf("got %v, %v: want what the fault says", entries, err)
		}
		return false
	})
	health(t, client, "outer", false)
	if got := len(s.Queries()); got != 2 {
		t.Errorf("%d queries recorded, want 2", got)
	}
}
