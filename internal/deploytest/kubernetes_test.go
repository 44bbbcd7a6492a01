package deploytest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// build is what kustomize makes of a folder, decoded strictly by the types of Kubernetes' API.
func build(t *testing.T, folder string) []runtime.Object {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root(t), folder))
	if err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, autoscalingv2.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	var all []runtime.Object
	for _, resource := range made.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s: %s: %v", folder, resource.CurId(), err)
			continue
		}
		all = append(all, object)
	}
	if len(all) < 10 {
		t.Fatalf("%s makes %d objects", folder, len(all))
	}
	return all
}

var overlays = []string{"deploy/kubernetes/overlays/consul-inside", "deploy/kubernetes/overlays/consul-outside"}

// typed are the objects of one kind.
func typed[T runtime.Object](all []runtime.Object) []T {
	var some []T
	for _, object := range all {
		if one, ok := object.(T); ok {
			some = append(some, one)
		}
	}
	return some
}

func TestKubernetes(t *testing.T) {
	for _, folder := range overlays {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			all := build(t, folder)
			deployments := typed[*appsv1.Deployment](all)
			if len(deployments) != 4 {
				t.Fatalf("%d deployments, want 4", len(deployments))
			}
			for _, d := range deployments {
				checkDeployment(t, d)
			}
			checkScaling(t, deployments, typed[*autoscalingv2.HorizontalPodAutoscaler](all))
			checkBudgets(t, deployments, typed[*policyv1.PodDisruptionBudget](all))
			checkServices(t, deployments, typed[*corev1.Service](all))
			checkPolicies(t, deployments, typed[*networkingv1.NetworkPolicy](all))
			for _, s := range typed[*appsv1.StatefulSet](all) {
				checkLocked(t, s.Name, s.Spec.Template.Spec)
				checkSelects(t, s.Name, s.Spec.Selector, s.Spec.Template.Labels)
			}
			for _, s := range typed[*appsv1.DaemonSet](all) {
				checkLocked(t, s.Name, s.Spec.Template.Spec)
				checkSelects(t, s.Name, s.Spec.Selector, s.Spec.Template.Labels)
			}
		})
	}
}

func checkSelects(t *testing.T, where string, by *metav1.LabelSelector, pod map[string]string) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod)) {
		t.Errorf("%s: %v (%v) does not select its own pods, which have %v", where, selector, err, pod)
	}
}

// checkLocked wants pods without root, without a file to write outside of volumes, and within
// bounds.
func checkLocked(t *testing.T, where string, pod corev1.PodSpec) {
	t.Helper()
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 || s.SeccompProfile == nil {
		t.Errorf("%s: its pods may be root, or have no seccomp profile", where)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Errorf("%s: its pods have a token of the API", where)
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
			t.Errorf("%s: container %s is not locked up", where, c.Name)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("%s: container %s lacks a limit of memory or a request", where, c.Name)
		}
	}
}

func checkDeployment(t *testing.T, d *appsv1.Deployment) {
	t.Helper()
	pod := d.Spec.Template.Spec
	checkLocked(t, d.Name, pod)
	checkSelects(t, d.Name, d.Spec.Selector, d.Spec.Template.Labels)
	if len(pod.Containers) != 1 {
		t.Fatalf("%s has %d containers", d.Name, len(pod.Containers))
	}
	c := pod.Containers[0]
	if image, _, _ := strings.Cut(filepath.Base(c.Image), ":"); image != d.Name {
		t.Errorf("%s runs image %q", d.Name, c.Image)
	}
	checkProgram(t, "deployment "+d.Name, d.Name, c.Args)
	checkVariables(t, d.Name, c)
	checkProbes(t, d.Name, c)
	if d.Spec.Replicas != nil {
		t.Errorf("%s sets its replicas, against its HorizontalPodAutoscaler", d.Name)
	}
	if u := d.Spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.IntValue() != 0 || u.MaxSurge.IntValue() < 1 {
		t.Errorf("%s: an update stops a pod before another is ready", d.Name)
	}
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil || pod.TerminationGracePeriodSeconds == nil {
		t.Fatalf("%s has no preStop, or no grace period", d.Name)
	}
	checkGrace(t, "deployment "+d.Name, time.Duration(c.Lifecycle.PreStop.Sleep.Seconds)*time.Second, time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second)
	keys := map[string]bool{}
	for _, spread := range pod.TopologySpreadConstraints {
		keys[spread.TopologyKey] = true
		checkSelects(t, d.Name, spread.LabelSelector, d.Spec.Template.Labels)
	}
	if !keys[corev1.LabelTopologyZone] || !keys[corev1.LabelHostname] {
		t.Errorf("%s is spread over %v", d.Name, keys)
	}
}

// checkVariables wants each $(NAME) to be defined before it is used.
func checkVariables(t *testing.T, where string, c corev1.Container) {
	t.Helper()
	known := map[string]bool{}
	used := func(text string) {
		for {
			_, after, found := strings.Cut(text, "$(")
			if !found {
				return
			}
			name, rest, _ := strings.Cut(after, ")")
			if text = rest; !known[name] {
				t.Errorf("%s: $(%s) is not defined before it is used", where, name)
			}
		}
	}
	for _, v := range c.Env {
		used(v.Value)
		known[v.Name] = true
	}
	for _, arg := range c.Args {
		used(arg)
	}
	if !known["CONSUL_HTTP_ADDR"] {
		t.Errorf("%s is not given an agent", where)
	}
}

// checkProbes holds the ports and paths of probes to what the environment makes the
// program serve.
func checkProbes(t *testing.T, where string, c corev1.Container) {
	t.Helper()
	checkSettings(t, where, environment(c.Env))
	serves, metrics := servedBy(environment(c.Env))
	named := map[string]int32{}
	for _, p := range c.Ports {
		named[p.Name] = p.ContainerPort
	}
	for name, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if probe == nil {
			t.Errorf("%s has no %s probe", where, name)
			continue
		}
		switch {
		case probe.GRPC != nil:
			if got := fmt.Sprint(probe.GRPC.Port); got != serves || isHTTP(c.Image) {
				t.Errorf("%s: the %s probe asks gRPC at %s; it serves at %s", where, name, got, serves)
			}
		case probe.HTTPGet != nil:
			port := probe.HTTPGet.Port.IntVal
			if probe.HTTPGet.Port.StrVal != "" {
				port = named[probe.HTTPGet.Port.StrVal]
			}
			path := probe.HTTPGet.Path
			if got := fmt.Sprint(port); !(got == metrics && (path == "/readyz" || path == "/healthz")) && !(isHTTP(c.Image) && got == serves && path == "/readyz") {
				t.Errorf("%s: the %s probe asks %s at port %s; calls are at %s, metrics at %s", where, name, path, got, serves, metrics)
			}
		default:
			t.Errorf("%s: the %s probe asks neither gRPC nor HTTP", where, name)
		}
	}
	if r := c.ReadinessProbe; r != nil && (r.HTTPGet == nil || r.HTTPGet.Path != "/readyz") {
		t.Errorf("%s: only /readyz says that it is registered", where)
	}
}

func environment(env []corev1.EnvVar) map[string]string {
	all := map[string]string{}
	for _, v := range env {
		all[v.Name] = v.Value
	}
	return all
}

// isHTTP reports whether an image or a program serves HTTP: all others serve gRPC.
func isHTTP(name string) bool { return strings.Contains(name, "gateway") }

// servedBy are the ports of calls and of metrics.
func servedBy(env map[string]string) (calls, metrics string) {
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	return port(env["MESHLITE_LISTEN_ADDRESS"]), port(env["MESHLITE_METRICS_ADDRESS"])
}

func valueOf(args []string, flag string) string {
	for _, arg := range args {
		if value, found := strings.CutPrefix(arg, flag+"="); found {
			return value
		}
	}
	return ""
}

func checkScaling(t *testing.T, deployments []*appsv1.Deployment, scalers []*autoscalingv2.HorizontalPodAutoscaler) {
	t.Helper()
	scaled := map[string]bool{}
	for _, s := range scalers {
		scaled[s.Spec.ScaleTargetRef.Name] = s.Spec.ScaleTargetRef.Kind == "Deployment" && s.Spec.ScaleTargetRef.APIVersion == "apps/v1" &&
			s.Spec.MinReplicas != nil && *s.Spec.MinReplicas >= 2 && s.Spec.MaxReplicas >= 2**s.Spec.MinReplicas && len(s.Spec.Metrics) > 0 && s.Spec.Behavior != nil
	}
	for _, d := range deployments {
		if !scaled[d.Name] {
			t.Errorf("%s is not scaled from 2 to twice as many", d.Name)
		}
	}
}

func checkBudgets(t *testing.T, deployments []*appsv1.Deployment, budgets []*policyv1.PodDisruptionBudget) {
	t.Helper()
	for _, d := range deployments {
		found := false
		for _, b := range budgets {
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			found = found || err == nil && selector.Matches(labels.Set(d.Spec.Template.Labels)) && b.Spec.MaxUnavailable.IntValue() == 1
		}
		if !found {
			t.Errorf("%s has no budget of disruptions", d.Name)
		}
	}
}

func checkServices(t *testing.T, deployments []*appsv1.Deployment, services []*corev1.Service) {
	t.Helper()
	for _, s := range services {
		for _, d := range deployments {
			if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) {
				continue
			}
			for _, p := range s.Spec.Ports {
				found := false
				for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
					found = found || port.Name == p.TargetPort.StrVal
				}
				if !found {
					t.Errorf("service %s wants port %q, which %s has not", s.Name, p.TargetPort.StrVal, d.Name)
				}
			}
		}
	}
}

// checkPolicies wants every deployment to be behind a policy in both directions, with a way to
// Consul, and Consul's with a way to it.
func checkPolicies(t *testing.T, deployments []*appsv1.Deployment, policies []*networkingv1.NetworkPolicy) {
	t.Helper()
	for _, d := range deployments {
		in, out := map[int32]bool{}, map[int32]bool{}
		for _, p := range policies {
			selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
			if err != nil || p.Namespace != d.Namespace || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				continue
			}
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					in[port.Port.IntVal] = true
				}
			}
			for _, rule := range p.Spec.Egress {
				for _, port := range rule.Ports {
					out[port.Port.IntVal] = true
				}
			}
		}
		if !in[8080] || !in[9100] || !out[8500] || !out[8080] || !out[53] {
			t.Errorf("%s: in come ports %v, and out go %v", d.Name, in, out)
		}
	}
}

type podTimes struct{ preStop, minReady time.Duration }

// kubernetesTimes are those of the first deployment.
func kubernetesTimes(t *testing.T) podTimes {
	t.Helper()
	d := typed[*appsv1.Deployment](build(t, overlays[0]))[0]
	return podTimes{
		preStop:  time.Duration(d.Spec.Template.Spec.Containers[0].Lifecycle.PreStop.Sleep.Seconds) * time.Second,
		minReady: time.Duration(d.Spec.MinReadySeconds) * time.Second,
	}
}
