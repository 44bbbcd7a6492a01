// Package reflectcall calls methods whose generated code this program does not
// have: it asks a server for the contract by gRPC reflection, or reads it from files,
// and turns JSON into requests and answers into JSON.
//
//	method, err := reflectcall.Lookup(ctx, conn, "sweetshop.catalog.v1.CatalogService/GetSweet")
//	request, err := method.Request([]byte(`{"id": "lemon-sherbet"}`))
//	answer := method.NewAnswer()
//	err = conn.Invoke(ctx, method.FullMethod(), request, answer)
//	text, err := method.JSON(answer)
//
// Reflection is one stream, so all of a contract comes from one instance. It is
// spoken as https://github.com/grpc/grpc/blob/master/doc/server-reflection.md says.
// Sources are compiled by protocompile, which needs no protoc; it is at home here.
package reflectcall
