package bench

import _ "google.golang.org/grpc/balancer/weightedroundrobin" // to compare with
