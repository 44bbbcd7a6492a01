package main

import (
	"net/http"
	"testing"
)

func TestConsulIsDown(t *testing.T) {
	agent := openAgent(t)
	agent.Close()
	// The refusal is what is reported, and not the end of some time: nothing waits for one.
	call(t, "consul:///catalog", getSweet, "--timeout", "1h").want(t, 1, "", "refused the connection: is an agent running there? try `consul agent -dev`, or set CONSUL_HTTP_ADDR")
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
	// The start timeout ends it, long before the timeout of the call does.
	call(t, "consul:///catalog", getSweet, "--timeout", "1h").want(t, 1, "", "has not answered within 5s: is it reachable?")
	call(t, "consul:///catalog", getSweet, "--timeout", "200ms").want(t, 1, "", "is --timeout 200ms enough?")
}

func TestConsulIsMisconfigured(t *testing.T) {
	t.Setenv("CONSUL_HTTP_SSL", "true")
	t.Setenv("CONSUL_CACERT", "/nowhere")
	call(t, "consul:///catalog", getSweet).want(t, 1, "", "/nowhere")
}
