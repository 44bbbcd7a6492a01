package consul

import (
	"context"
	"net"
	"net/http"
)

// Dial is how a transport opens a connection.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// WrapDial changes how d, which has asked nothing yet, opens its connections.
func WrapDial(d *Directory, wrap func(Dial) Dial) {
	transport := d.base.(*http.Transport)
	transport.DialContext = wrap(transport.DialContext)
}
