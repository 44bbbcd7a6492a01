package deploytest

import (
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// compose is the project, which compose-go checks by the schema of the specification.
func compose(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root(t), "deploy/compose/compose.yaml")}, cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestCompose(t *testing.T) {
	project := compose(t)
	for _, name := range []string{"consul", "redis", "prometheus", "grafana", "catalog", "inventory", "storefront", "gateway", "haproxy"} {
		if _, found := project.Services[name]; !found {
			t.Errorf("there is no service %s", name)
		}
	}
	for name, service := range project.Services {
		if service.Build == nil && service.HealthCheck == nil {
			t.Errorf("%s has no health check", name)
		}
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind {
				checkExists(t, name, volume.Source)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q, not on loopback", name, port.Published, port.HostIP)
			}
		}
		for other, condition := range service.DependsOn {
			if condition.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s waits for %s until it is %q", name, other, condition.Condition)
			}
		}
		if service.Build != nil {
			checkBuilt(t, project, service)
		}
	}
}

func checkExists(t *testing.T, where, path string) {
	t.Helper()
	if matches, err := filepath.Glob(path); err != nil || len(matches) != 1 {
		t.Errorf("%s: there is no %s", where, path)
	}
}

// checkBuilt checks a service that is a program of ours. It can be scaled: nothing of it is
// there once only.
func checkBuilt(t *testing.T, project *types.Project, service types.ServiceConfig) {
	t.Helper()
	name := service.Name
	program := service.Build.Args["PROGRAM"]
	if program == nil {
		t.Fatalf("%s: PROGRAM is not set", name)
	}
	checkExists(t, name, filepath.Join(service.Build.Context, service.Build.Dockerfile))
	checkProgram(t, "compose: "+name, *program, service.Command)
	if len(service.Ports) > 0 || service.ContainerName != "" || service.Hostname != "" {
		t.Errorf("%s cannot be scaled: it publishes a port or has a fixed name", name)
	}
	for network, settings := range service.Networks {
		if settings != nil && (settings.Ipv4Address != "" || settings.Ipv6Address != "") {
			t.Errorf("%s cannot be scaled: it has a fixed address in %s", name, network)
		}
	}
	if !service.ReadOnly || len(service.CapDrop) != 1 || service.CapDrop[0] != "ALL" || len(service.SecurityOpt) == 0 {
		t.Errorf("%s is not locked up", name)
	}
	if service.StopGracePeriod == nil || service.StopSignal != "SIGTERM" {
		t.Fatalf("%s is stopped by %q", name, service.StopSignal)
	}
	checkGrace(t, "compose: "+name, 0, time.Duration(*service.StopGracePeriod))
	subnet := project.Networks["mesh"].Ipam.Config[0].Subnet
	if advertise := valueOf(service.Command, "--advertise"); advertise != subnet && valueOf(service.Command, "--trusted-proxies") != subnet {
		t.Errorf("%s advertises %q, and its network is %s", name, advertise, subnet)
	}
	env := map[string]string{}
	for key, value := range service.Environment {
		env[key] = *value
	}
	checkSettings(t, "compose: "+name, env)
	calls, _ := servedBy(env)
	stage := stageOf(t, service.Build.Target)
	if probed := stage.probed(t); !strings.Contains(probed, "127.0.0.1:"+calls) || strings.HasPrefix(probed, "http") != isHTTP(name) {
		t.Errorf("%s is served at port %s, and its image probes %s", name, calls, probed)
	}
	if env["CONSUL_HTTP_ADDR"] != "consul:8500" {
		t.Errorf("%s has its agent at %q", name, env["CONSUL_HTTP_ADDR"])
	}
}

// --scale catalog=5 is this.
func TestComposeScales(t *testing.T) {
	project := compose(t)
	for _, name := range []string{"catalog", "gateway"} {
		service := project.Services[name]
		service.SetScale(5)
		project.Services[name] = service
	}
	text, err := project.MarshalYAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "scale: 5")+strings.Count(string(text), "replicas: 5") < 2 {
		t.Errorf("nothing was scaled: %s", text)
	}
	if !strings.Contains(read(t, "deploy/compose/haproxy.cfg"), "server-template gateway 20 gateway:8080") {
		t.Error("HAProxy does not take more gateways than two")
	}
}

func TestHAProxyOfCompose(t *testing.T) {
	haproxy := needs(t, "haproxy")
	outputOf(t, exec.Command(haproxy, "-c", "-f", filepath.Join(root(t), "deploy/compose/haproxy.cfg")))
}

// Debian's promtool is built without Consul, and cannot read the file.
func TestPrometheusOfCompose(t *testing.T) {
	type config struct {
		Scrape []struct {
			Job     string           `yaml:"job_name"`
			Relabel []map[string]any `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
		Rules []string `yaml:"rule_files"`
	}
	var ours, original config
	for path, into := range map[string]*config{"deploy/compose/prometheus.yml": &ours, "deploy/prometheus/prometheus.yml": &original} {
		if err := yaml.Unmarshal([]byte(read(t, path)), into); err != nil {
			t.Fatal(err)
		}
	}
	if len(original.Scrape) == 0 || !reflect.DeepEqual(ours.Scrape[0], original.Scrape[0]) || !reflect.DeepEqual(ours.Rules, original.Rules) {
		t.Errorf("Compose's Prometheus relabels %v, and deploy/prometheus %v", ours.Scrape[0], original.Scrape[0])
	}
}
