package main

import (
	"net/http"
	"testing"
	"time"
)

func TestConsulIsDown(t *testing.T) {
	agent := openAgent(t)
	agent.Close()
	start := time.Now()
	call(t, "consul:///catalog", getSweet).want(t, 1, "", "refused the connection: is an agent running there? try `consul agent -dev`, or set CONSUL_HTTP_ADDR")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

func TestConsulHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits 5 s")
	}
	agent := openAgent(t)
	agent.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	start := time.Now()
	call(t, "consul:///catalog", getSweet).want(t, 1, "", "has not answered within 5s: is it reachable?")
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	call(t, "consul:///catalog", getSweet, "--timeout", "200ms").want(t, 1, "", "is --timeout 200ms enough?")
}

func TestConsulIsMisconfigured(t *testing.T) {
	t.Setenv("CONSUL_HTTP_SSL", "true")
	t.Setenv("CONSUL_CACERT", "/nowhere")
	call(t, "consul:///catalog", getSweet).want(t, 1, "", "/nowhere")
}
