// Package reflectcall calls methods whose generated code this program does not
// have: it reads the contract from a server by gRPC reflection, or from files,
// and turns JSON into requests and answers into JSON.
//
//	method, err := reflectcall.Lookup(ctx, conn, "sweetshop.catalog.v1.CatalogService/GetSweet")
//	request, err := method.Request([]byte(`{"id": "lemon-sherbet"}`))
//	answer := method.NewAnswer()
//	err = conn.Invoke(ctx, method.FullMethod(), request, answer)
//	text, err := method.JSON(answer)
//
// Reflection is one stream, so all of a contract comes from one instance. It
// follows https://github.com/grpc/grpc/blob/master/doc/server-reflection.md.
// Sources are compiled by protocompile, without protoc; only this package imports it.
package reflectcall
