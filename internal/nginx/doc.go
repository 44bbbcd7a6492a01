// Package nginx keeps the servers of an NGINX upstream in a file: it renders them from
// instances, replaces the file in one step, validates the configuration, and reloads NGINX.
// The open source NGINX resolves the servers of an upstream only when it reads them.
//
//	text, refused := nginx.Block{Upstream: "catalog", Balance: nginx.LeastConn}.Render(instances)
//	changed, err := file.Apply(ctx, text)
package nginx
