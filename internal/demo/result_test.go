package demo

// goodResult is one of which every condition holds.
func goodResult() *Result {
	return &Result{
		Registry: "consul 1.22.7", Calls: 8000, Gateway: 2640, Refused: 2950, P50: 6.02, P99: 17.4,
		Cache: Cache{8200, 640},
		Services: []Service{
			{"catalog", []Instance{{"catalog-127-0-0-1-4001", "127.0.0.1:4001", 200}, {"catalog-127-0-0-1-4002", "127.0.0.1:4002", 302}}},
			{"inventory", []Instance{{"inventory-127-0-0-1-4003", "127.0.0.1:4003", 9000}}},
			{"storefront", []Instance{{"storefront-127-0-0-1-4004", "127.0.0.1:4004", 12000}}},
		},
		Joined: 41.5,
		Abuser: Abuser{1050, 1050},
		Phases: []Phase{{"steady", 1600, 0, 15.5}, {"doubled", 3200, 0, 16.1}, {"faults", 3200, 0, 19.25}},

		seconds: 20.04,
		before:  before{calls: 1600, orders: 160, seconds: 20.0 / 3},
		cards: []card{
			{"catalog-1", "catalog", "catalog-127-0-0-1-4001", "127.0.0.1:4001", "killed", 200, share{180, 178}},
			{"catalog-2", "catalog", "catalog-127-0-0-1-4002", "127.0.0.1:4002", "", 302, share{290, 300}},
			{"inventory-1", "inventory", "inventory-127-0-0-1-4003", "127.0.0.1:4003", "", 9000, share{9000, 5000}},
			{"inventory-2", "inventory", "inventory-127-0-0-1-4005", "127.0.0.1:4005", "restarted", 7, share{1, 9}},
			{"storefront-1", "storefront", "storefront-127-0-0-1-4004", "127.0.0.1:4004", "", 12000, share{11000, 11000}},
		},
		caches: [phases]Cache{{2000, 200}, {3000, 220}, {3200, 220}},
	}
}
