package snapshot_test

import (
	"fmt"
	"os"

	"github.com/meshlite-go/meshlite/resolver/catalog"
	"github.com/meshlite-go/meshlite/resolver/snapshot"
)

// The resolver does this by itself: it saves each answer, and loads the last one
// when the directory cannot be reached.
func Example() {
	folder, err := os.MkdirTemp("", "snapshots")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	snapshots, err := snapshot.Open(folder)
	if err != nil {
		fmt.Println(err)
		return
	}

	const directory = "consul at 127.0.0.1:8500"
	question := catalog.Query{Service: "catalog"}
	err = snapshots.Save(directory, question, catalog.Snapshot{
		Instances: []catalog.Instance{{ID: "catalog-1", Service: "catalog", Address: "10.0.0.1:8080", Weight: 1}},
		Index:     7,
	})
	fmt.Println(err)

	last, err := snapshots.Load(directory, question)
	fmt.Println(last.Index, last.Instances[0].Address, last.Instances[0].Status, err)
	never, err := snapshots.Load(directory, catalog.Query{Service: "inventory"})
	fmt.Println(len(never.Instances), err)
	// Output:
	// <nil>
	// 7 10.0.0.1:8080 passing <nil>
	// 0 <nil>
}
