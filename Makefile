# `make help` lists the targets. Everything that is built lands in .bin, everything
# that is needed is pinned: tools in internal/tools, Consul in deploy/consul.

BIN      := $(CURDIR)/.bin
PROGRAMS := meshlite catalog inventory storefront gateway
GO       ?= go

.DEFAULT_GOAL := help
.PHONY: mixed matrix release vulnerabilities licences cross api cases help build demo chaos dev test test-short bench growth bench-peers scale delays bench-go mutants lint fmt generate check-generate breaking tools consul clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build meshlite and the sweet shop into .bin
	@mkdir -p $(BIN)
	@echo "building the tool and the sweet shop: about a minute the first time"
	$(GO) build -o $(BIN)/ $(PROGRAMS:%=./cmd/%)

demo: build $(if $(IDENTITY),consul) ## traffic doubles overnight: 20 s of load, a crash and a rolling restart; IDENTITY=1 over mutual TLS
	@$(BIN)/meshlite demo $(if $(IDENTITY),--identity)

chaos: build consul ## break a mesh on a real Consul, fault by fault, and measure what callers notice
	@$(BIN)/meshlite chaos

dev: build $(if $(IDENTITY),consul) ## run a registry and the sweet shop until ctrl-C; IDENTITY=1 over mutual TLS
	@$(BIN)/meshlite dev $(if $(IDENTITY),--identity)

# What counts picks, keys or lines by the hundred thousand runs without the race detector, after
# the rest: the tests that begin with racetest.Skip.
COUNTING_IN    = $(shell grep -rl --exclude-dir=.bin --include='*_test.go' '^.racetest\.Skip' . | xargs -n 1 dirname | sort -u)
COUNTING_TESTS = $(shell grep -rh -B 1 --exclude-dir=.bin --include='*_test.go' '^.racetest\.Skip' . | sed -n 's/^func \(Test[A-Za-z0-9]*\).*/\1/p' | paste -s -d '|' -)

# These wait longest, three minutes each, so they begin first.
LONGEST := . ./resolver/consul

# Four packages at once, on however few cores: tests of real processes mostly wait. The race
# detector would sleep for a second at the end of each, for goroutines that goleak has seen end.
test: consul tools ## run all tests, with the race detector but for what counts, a real Consul among them
	$(GO) build -ldflags='-s -w' -o $(BIN)/programs/ ./cmd/...
	MESHLITE_TEST_PROGRAMS=$(BIN)/programs GORACE=atexit_sleep_ms=0 $(GO) test -race -p 4 -timeout 8m $(LONGEST) ./...
	@echo "$(GO) test, without the race detector: the tests that begin with racetest.Skip"
	@$(GO) test -p 4 -timeout 8m -run '^($(COUNTING_TESTS))$$' $(COUNTING_IN)
	cd internal/connecttest && $(GO) test -race ./...
	cd internal/deploytest && $(GO) test ./...

# Another release: make mixed MESHLITE_PREVIOUS=v0.3.0
mixed: ## run the previous release beside this tree, through a rolling upgrade and back: minutes the first time
	$(GO) test -count=1 -timeout 40m ./internal/mixedtest -releases

test-short: ## run the tests that take seconds; a real Consul is used if there is one
	$(GO) test -race -short -timeout 4m ./...

# The program is run by itself, since go test would keep its tables back to the end.
# More runs, or longer ones: make bench BENCH='-runs 5 -window 3s'
bench: ## measure picks and whole calls beside grpc-go, NGINX and HAProxy, and the gateway beside grpc-gateway, simulate slow backends: tables with aims, 5 minutes
	@mkdir -p $(BIN)
	@$(GO) test -c -o $(BIN)/bench.test ./internal/bench
	@cd internal/bench && $(BIN)/bench.test -figures -test.run Figures $(BENCH)
	@$(GO) test -count=1 -v -run Published ./internal/simulation

# To publish: make growth GROWTH='-docs ../../docs'
growth: ## measure how cost and memory grow with endpoints, services, callers, payload, messages and channels: tables and plots, 4 minutes
	@mkdir -p $(BIN)
	@$(GO) test -c -o $(BIN)/bench.test ./internal/bench
	@cd internal/bench && $(BIN)/bench.test -growth -window 1s -test.run '^TestGrowth$$' $(GROWTH)

# To publish: make bench-peers PEERS='-docs ../../docs'
bench-peers: ## measure whole calls beside kratos, go-zero, grpc-go, NGINX and HAProxy: a table and plots, 5 minutes
	@mkdir -p $(BIN)
	@cd internal/benchpeers && $(GO) test -c -o $(BIN)/benchpeers.test .
	@cd internal/benchpeers && $(BIN)/benchpeers.test -figures -test.run Figures $(PEERS)

# A fifth of the mesh, for a small machine: make scale SCALE='-part 5'
scale: ## simulate 1,000 services, 10,000 instances and 50,000 channels: the tables of docs/growing.md, some minutes
	$(GO) test -count=1 -timeout 60m -v -run Figures ./internal/scale -figures $(SCALE)

delays: ## measure how soon one process of 30 to 300 services follows a change in a real Consul, and what that costs its agent, ten minutes
	$(GO) test -count=1 -timeout 60m -v -run 'Delays$$' ./internal/scale -delays

bench-go: ## run the Go benchmarks, for benchstat: picks, the chain, ten thousand endpoints, whole calls
	$(GO) test -run '^$$' -bench . -benchmem -count 5 ./balancer/... ./interceptors/... ./resolver/... ./internal/e2e

# Other seeds, rooms or numbers: make mutants MUTANTS='-seed 7 -n 50 ./balancer/...'
MUTANTS ?= ./balancer/... ./interceptors/... ./resolver
mutants: ## change product code at 20 drawn places, one at a time, and name the test that notices
	@$(GO) run ./internal/mutants $(MUTANTS)

cases: ## write docs/cases.md, which case is kept by which test, from the comments of the tests
	$(GO) test -count=1 -run TestCasesAreListed ./internal/house -update

api: ## write docs/api.txt, what users compile against
	$(GO) test -count=1 -run TestPublicAPIIsWrittenDown ./internal/house -update

lint: tools ## gofmt, vet, staticcheck, buf lint
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-clean, run \`make fmt\`:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(BIN)/staticcheck ./...
	cd internal/pagetest && $(GO) vet ./... && $(BIN)/staticcheck ./...
	cd internal/deploytest && $(GO) vet ./... && $(BIN)/staticcheck ./...
	cd internal/migratetest && $(GO) vet ./... && $(BIN)/staticcheck ./...
	cd internal/benchpeers && $(GO) vet ./... && $(BIN)/staticcheck ./...
	$(BIN)/buf lint

fmt: ## format Go and proto files
	gofmt -w $$(git ls-files '*.go' ':!*.pb.go')
	$(BIN)/buf format -w

generate: tools ## write the Go code of the contracts
	$(BIN)/buf generate
	cd gateway/transcode/testdata && $(BIN)/buf generate --path proto/forms
	cd internal/bench/testdata && $(BIN)/buf generate --path proto/bench

check-generate: generate breaking ## fail if generated code is not what is committed
	@dirty=$$(git status --porcelain -- proto gateway/transcode/testdata internal/bench/testdata); \
	if [ -n "$$dirty" ]; then echo "generated code is not what is committed, run \`make generate\` and commit:"; echo "$$dirty"; git diff -- proto gateway/transcode/testdata internal/bench/testdata | head -50; exit 1; fi

# On main itself, before the first commit and in a shallow clone there is nothing
# to compare with but the commit before.
breaking: tools ## fail if a contract breaks one on main
	@base=$$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || true); \
	if [ "$$base" = "$$(git rev-parse HEAD)" ]; then base=$$(git rev-parse --verify --quiet HEAD~1 || true); fi; \
	if [ -n "$$base" ] && git cat-file -e "$$base:buf.yaml" 2>/dev/null; then \
		echo "$(BIN)/buf breaking --against $$base"; $(BIN)/buf breaking --against ".git#ref=$$base"; \
	else echo "buf breaking: no earlier contracts to compare with"; fi

tools: $(BIN)/.tools ## build buf, its plugins and staticcheck

$(BIN)/.tools: internal/tools/go.mod internal/tools/go.sum
	@mkdir -p $(BIN)
	@echo "building buf and staticcheck: about two minutes the first time"
	cd internal/tools && $(GO) build -o $(BIN)/ tool
	@touch $@

consul: $(BIN)/consul ## build a real Consul for tests and the demo

# Only its own module builds Consul, because of the versions it replaces. It is
# licensed under the BUSL: it is run, never linked.
$(BIN)/consul: deploy/consul/go.mod deploy/consul/go.sum
	@mkdir -p $(BIN)
	@echo "building Consul: about five minutes the first time, seconds after that"
	cd deploy/consul && $(GO) build -o $@ github.com/hashicorp/consul
	@touch $@

# Tests take the Consul that is first on PATH. The one of deploy/consul is what is
# tested; this is how to try another: docs/versions.md.
OLDEST := $(BIN)/oldest
matrix: $(OLDEST)/consul ## run the tests of discovery, registration and real processes against an older Consul, that of deploy/consul/oldest: to try one, none but 1.22 is supported
	PATH=$(OLDEST):$$PATH CI=true $(GO) test -count=1 -timeout 20m ./resolver/consul ./internal/consulagent/... ./internal/doctor ./internal/e2e

$(OLDEST)/consul: deploy/consul/oldest/go.mod deploy/consul/oldest/go.sum
	@mkdir -p $(OLDEST)
	@echo "building an older Consul: about five minutes the first time"
	cd deploy/consul/oldest && $(GO) build -o $@ github.com/hashicorp/consul
	@touch $@

# From a clone of the last commit: what is not committed has no place in a release, and the Go
# tool and cyclonedx-gomod find no commit in a worktree.
RELEASE := $(BIN)/release
release: $(BIN)/.releasetools ## build the archives, packages, SBOM and checksums of the last commit into .bin/release
	@rm -rf $(RELEASE) $(BIN)/tree && mkdir -p $(RELEASE)
	@git clone -q --local . $(BIN)/tree
	cd $(BIN)/tree && $(GO) run ./internal/release -out $(RELEASE)
	cd $(BIN)/tree && deploy/release/packages $(RELEASE) $(BIN)
	cd $(BIN)/tree && $(BIN)/cyclonedx-gomod mod -json -licenses -noserial -notimestamp -output $(RELEASE)/sbom.cdx.json .
	cd $(BIN)/tree && $(GO) run ./internal/release -out $(RELEASE) -sums
	@rm -rf $(BIN)/tree
	@ls -l $(RELEASE)

$(BIN)/.releasetools: deploy/release/go.mod deploy/release/go.sum
	@mkdir -p $(BIN)
	@echo "building nfpm, cyclonedx-gomod and govulncheck: some minutes the first time"
	cd deploy/release && $(GO) build -o $(BIN)/ tool
	@touch $@

# Without paths, as a release is built: what was compiled for the one serves the other.
CROSS := linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
cross: ## compile programs and tests for Linux on arm64, macOS and Windows: minutes the first time
	for platform in $(CROSS); do \
		echo "$$platform"; CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO) vet -trimpath ./... || exit 1; \
	done

# Where vuln.go.dev is out of reach: make vulnerabilities VULNDB=file:///where/a/copy/is
VULNDB ?= https://vuln.go.dev
vulnerabilities: $(BIN)/.releasetools ## look for known vulnerabilities that the code reaches: needs vuln.go.dev, or a copy in VULNDB
	@case "$(VULNDB)" in \
	http*) curl -fsS --max-time 20 -o /dev/null $(VULNDB)/index/db.json || \
		{ echo "vulnerabilities: $(VULNDB) is out of reach, so nothing was looked for: give a copy of it, such as VULNDB=file:///var/lib/vulndb"; exit 1; } ;; \
	file://*) test -e "$(VULNDB:file://%=%)/index/db.json" || \
		{ echo "vulnerabilities: $(VULNDB) has no index/db.json: give a copy of https://vuln.go.dev"; exit 1; } ;; \
	*) echo "vulnerabilities: VULNDB $(VULNDB): write https://host or file:///folder"; exit 1 ;; \
	esac
	$(BIN)/govulncheck -db $(VULNDB) ./...

# The licences of what the programs link: those that may be passed on with a notice.
licences: $(BIN)/.releasetools ## fail if a dependency of the programs has no licence that allows its distribution
	@$(BIN)/cyclonedx-gomod app -json -licenses -main cmd/meshlite . >$(BIN)/licences.json
	@$(GO) run ./internal/release -licences $(BIN)/licences.json

clean: ## remove what was built
	rm -rf $(BIN)
