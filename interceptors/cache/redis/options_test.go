package redis_test

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/interceptors/cache/redis"
	"github.com/meshlite-go/meshlite/internal/freeport"
	"github.com/meshlite-go/meshlite/internal/redistest"
)

func TestOptionsAreChecked(t *testing.T) {
	url := redis.WithURL("redis://localhost")
	option := func(change func(*rueidis.ClientOption)) redis.Option {
		o := rueidis.ClientOption{InitAddress: []string{"localhost:6379"}}
		change(&o)
		return redis.WithClientOption(o)
	}
	for says, opts := range map[string][]redis.Option{
		"0 of WithURL":           {},
		"2 of WithURL":           {url, option(func(*rueidis.ClientOption) {})},
		"WithTimeout: 1µs":       {url, redis.WithTimeout(time.Microsecond)},
		"WithTimeout: 1m0s":      {url, redis.WithTimeout(time.Minute)},
		`WithPrefix: ""`:         {url, redis.WithPrefix("")},
		`WithPrefix: "a b"`:      {url, redis.WithPrefix("a b")},
		"WithMaxValueBytes: 1":   {url, redis.WithMaxValueBytes(1)},
		"WithMaxValueBytes: -1":  {url, redis.WithMaxValueBytes(-1)},
		"InitAddress is empty":   {option(func(o *rueidis.ClientOption) { o.InitAddress = nil })},
		"SendToReplicas":         {option(func(o *rueidis.ClientOption) { o.SendToReplicas = func(rueidis.Completed) bool { return true } })},
		"PipelineMultiplex 9":    {option(func(o *rueidis.ClientOption) { o.PipelineMultiplex = 9 })},
		"write redis://user:pas": {redis.WithURL("")},
	} {
		r, err := redis.New(opts...)
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error is %v, want one that says %s", err, says)
		}
	}
}

// X12: wherever in the URL it stands.
func TestNoErrorShowsThePassword(t *testing.T) {
	const secret = "hunter2"
	for _, url := range []string{
		"http://user:hunter2@localhost", "redis://:hunter2/x@localhost:6379/0", "redis://user:hunter2@localhost/zero",
		"redis://user/hunter2@localhost", "hunter2", "hunter2://x", "redis://:hunter2%zz@localhost", "redis://localhost:hunter2",
		"redis://localhost?db=hunter2", "unix://user:hunter2@",
	} {
		r, err := redis.New(redis.WithURL(url))
		if err == nil {
			r.Close()
			t.Errorf("%s was taken for a URL of Redis", url)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestNoLogShowsThePassword(t *testing.T) {
	const secret = "hunter2"
	protected := miniredis.RunT(t)
	protected.RequireAuth("other")
	echo := miniredis.RunT(t)
	echo.SetError("ERR what shall I do with HELLO 3 AUTH default hunter2?")
	for what, addr := range map[string]string{"wrong password": protected.Addr(), "echo": echo.Addr(), "nobody": freeport.For(t)} {
		log := &logged{}
		r := newStore(t, "redis://:"+secret+"@"+addr, redis.WithLogger(log.logger()))
		redistest.Await(t, "line", func() bool { return strings.Contains(log.String(), "away") })
		_, _, _, load := r.Load(t.Context(), "key", sweet)
		invalidate := r.Invalidate(t.Context(), sweet)
		for _, text := range []string{log.String(), load.Error(), invalidate.Error()} {
			if strings.Contains(text, secret) || !strings.Contains(text, addr) {
				t.Errorf("%s: %q, want one that shows the address and not the password", what, text)
			}
		}
	}
}

func TestPasswordsAndTLS(t *testing.T) {
	cert := certificate(t)
	mini, err := miniredis.RunTLS(&tls.Config{Certificates: []tls.Certificate{cert.pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mini.Close)
	mini.RequireUserAuth("app", "hunter2")
	r, err := redis.New(redis.WithClientOption(rueidis.ClientOption{
		InitAddress: []string{mini.Addr()}, Username: "app", Password: "hunter2", TLSConfig: &tls.Config{RootCAs: cert.pool},
	}), redis.WithLogger(silent), redis.WithTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	redistest.Await(t, "connection", func() bool { return r.Stats().Connected })
	keep(t, r, "key", "fudge", sweet...)

	byURL := connected(t, "rediss://app:hunter2@"+mini.Addr()+"?skip_verify=true")
	value, _ := load(t, byURL, "key", sweet...)
	want(t, "value", value, "fudge")
}
