package cli

import "testing"

// Case I13
func TestWhichPagesReceiveTheToken(t *testing.T) {
	networks, err := PageAccess{SendTokenTo: []string{"10.1.0.0/16", "10.2.0.7", "fd00::/8", "::ffff:10.3.0.1"}}.networks()
	if err != nil {
		t.Fatal(err)
	}
	to := tokenTo{"secret", networks, own{"vm": true, "10.9.0.1": true}}
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.10:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "localhost:80": true, "LOCALHOST.:80": true, "0.0.0.0:80": true,
		"10.9.0.1:80": true, "[::ffff:10.9.0.1]:80": true, // this host
		"10.1.255.255:80": true, "10.2.0.7:80": true, "[fd00::1]:80": true, "10.3.0.1:80": true,
		"10.2.0.8:80": false, "10.0.0.1:80": false, "[fe80::1]:80": false, "203.0.113.7:80": false,
		"vm:80": false, "web-9:80": false, "localhost.evil.example:80": false, "127.0.0.1.nip.io:80": false, "2130706433:80": false, "0x7f000001:80": false,
	} {
		if got := to.maySend(process{ID: "a", Address: address}); got != want {
			t.Errorf("of Consul, %s receives the token: %v, want %v", address, got, want)
		}
		if !to.maySend(process{Address: address, named: true}) {
			t.Errorf("%s does not receive the token although it is named", address)
		}
	}
}
