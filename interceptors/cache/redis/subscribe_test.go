package redis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

func TestSubscribersReceiveInvalidationsOfOthers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, url string) {
		one, other := connected(t, url), connected(t, url)
		h, own := subscribe(t, one), subscribe(t, other)
		invalidate(t, other, sweet[2], "tag with , and \" and é")
		invalidate(t, other, "tag not \xff UTF-8")
		for _, h := range []*received{h, own} {
			redistest.Await(t, "message", func() bool { return h.count(sweet[2]+",tag with , and \" and é") == 1 && h.count("nil") == 1 })
		}
	})
}

// C19.
//
// Case C19
func TestALostSubscriptionIsEverything(t *testing.T) {
	for _, protocol := range []string{"3", "2"} {
		t.Run("RESP"+protocol, func(t *testing.T) {
			s := redistest.Start(t)
			r := connected(t, s.URL()+"?protocol="+protocol)
			first, second := subscribe(t, r), subscribe(t, r)
			for range 3 {
				lost := r.Stats().LostSubscriptions
				before := first.count("nil")
				s.Do("CLIENT", "KILL", "TYPE", "pubsub")
				// One when it is lost and one when it is there again.
				redistest.Await(t, "nil", func() bool {
					return first.count("nil") >= before+2 && second.count("nil") >= before+2 && r.Stats().Subscribed
				})
				want(t, "lost subscriptions", r.Stats().LostSubscriptions, lost+1)
			}
			invalidate(t, r, sweet[0])
			redistest.Await(t, "message", func() bool { return first.count(sweet[0]) == 1 && second.count(sweet[0]) == 1 })
		})
	}
}

func TestALaterSubscriberDropsEverything(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	subscribe(t, r)
	h := &received{}
	cancel := r.Subscribe(h.invalidated)
	want(t, "calls with nil", h.count("nil"), 1)
	cancel()
	cancel()
	invalidate(t, r, sweet[0])
	witness := subscribe(t, r)
	invalidate(t, r, sweet[1])
	redistest.Await(t, "message", func() bool { return witness.count(sweet[1]) == 1 })
	want(t, "calls after cancel", len(h.list()), 1)
}

func TestCancelWaitsForTheLastCall(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	entered, leave := make(chan struct{}), make(chan struct{})
	over := false
	cancel := r.Subscribe(func(subjects []string) {
		if subjects != nil && !over {
			close(entered)
			<-leave
			over = true
		}
	})
	redistest.Await(t, "subscription", func() bool { return r.Stats().Subscribed })
	invalidate(t, r, sweet[0])
	<-entered
	time.AfterFunc(10*time.Millisecond, func() { close(leave) })
	cancel()
	want(t, "call is over", over, true)
}

func TestAMessageOfAnotherKindIsEverything(t *testing.T) {
	mini := miniredis.RunT(t)
	r := connected(t, "redis://"+mini.Addr())
	h := subscribe(t, r)
	messages := []string{"", "null", "[]", "{", `{"a":1}`, `[1]`, `"tag"`, "[" + strings.Repeat(" ", 70<<10) + `"tag x"]`}
	for _, m := range messages {
		mini.Publish("meshlite:cache:invalidated", m)
	}
	mini.Publish("other:invalidated", `["tag other"]`)
	mini.Publish("meshlite:cache:invalidated", `["tag x"]`)
	redistest.Await(t, "message", func() bool { return h.count("tag x") == 1 })
	want(t, "messages for everything", h.count("nil"), len(messages))
	want(t, "messages", len(h.list()), len(messages)+1)
}

// Many subjects at once are published as everything, and invalidate it.
func TestManySubjectsAreEverything(t *testing.T) {
	r := connected(t, "redis://"+miniredis.RunT(t).Addr())
	h := subscribe(t, r)
	keep(t, r, "key", "fudge", sweet...)
	many := make([]string, 1025)
	for i := range many {
		many[i] = "tag " + strings.Repeat("y", i)
	}
	invalidate(t, r, many...)
	value, _ := load(t, r, "key", sweet...)
	want(t, "value", value, "")
	redistest.Await(t, "message for everything", func() bool { return h.count("nil") == 1 })

	keep(t, r, "key", "fudge", sweet...)
	invalidate(t, r, many[900:]...) // too long a message, but not too many
	value, _ = load(t, r, "key", sweet...)
	want(t, "value of other subjects", value, "fudge")
	redistest.Await(t, "message for everything", func() bool { return h.count("nil") == 2 })
}

// A user that may not subscribe still has its values, and one line in the log.
func TestADeniedSubscriptionIsLoggedOnce(t *testing.T) {
	s := redistest.Start(t)
	s.Do("ACL", "SETUSER", "deaf", "on", ">hush-hush", "~*", "+@all", "resetchannels")
	log := &logged{}
	r := connected(t, "redis://deaf:hush-hush@"+s.Addr, redis.WithLogger(log.logger()))
	h := &received{}
	defer r.Subscribe(h.invalidated)()
	redistest.Await(t, "line", func() bool { return strings.Contains(log.String(), "do not arrive") })
	keep(t, r, "key", "fudge", sweet...)
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "allow the user") || strings.Contains(text, "hush-hush") {
		t.Errorf("log is %q, want one line that says what to allow", text)
	}
}

func TestAnExistingClientIsUsedAndLeftOpen(t *testing.T) {
	s := redistest.Start(t)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r, err := redis.New(redis.WithClient(client), redis.WithLogger(silent), redis.WithTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected })
	h := subscribe(t, r)
	keep(t, r, "key", "fudge", sweet...)
	invalidate(t, r, sweet[1])
	redistest.Await(t, "message", func() bool { return h.count(sweet[1]) == 1 })
	r.Close()
	if err := client.Do(t.Context(), client.B().Ping().Build()).Error(); err != nil {
		t.Errorf("the client was closed: %v", err)
	}
}
