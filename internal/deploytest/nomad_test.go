package deploytest

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
)

// jobReader reads a job into the types of Nomad's API, by their hcl tags, as Nomad's own reader
// does. What the types do not have is an error.
type jobReader struct {
	source []byte
	vars   map[string]string
	errs   []error
}

func (r *jobReader) fail(at hcl.Range, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// value is an expression as a value. What Nomad interpolates when it runs the job stays as it is
// written.
func (r *jobReader) value(e hclsyntax.Expression) any {
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		var text strings.Builder
		for _, part := range e.Parts {
			fmt.Fprint(&text, r.value(part))
		}
		return text.String()
	case *hclsyntax.TemplateWrapExpr:
		return r.value(e.Wrapped)
	case *hclsyntax.ScopeTraversalExpr:
		name := string(e.Range().SliceBytes(r.source))
		if variable, found := strings.CutPrefix(name, "var."); found {
			value, declared := r.vars[variable]
			if !declared {
				r.fail(e.Range(), "variable %q is not declared", variable)
			}
			return value
		}
		return "${" + name + "}"
	case *hclsyntax.TupleConsExpr:
		list := []any{}
		for _, one := range e.Exprs {
			list = append(list, r.value(one))
		}
		return list
	}
	v, diagnostics := e.Value(nil)
	if diagnostics.HasErrors() {
		r.fail(e.Range(), "%v", diagnostics)
		return nil
	}
	switch v.Type() {
	case cty.String:
		return v.AsString()
	case cty.Bool:
		return v.True()
	case cty.Number:
		n, _ := v.AsBigFloat().Int64()
		return n
	}
	r.fail(e.Range(), "a %s is not expected", v.Type().FriendlyName())
	return nil
}

// set gives a field a value of its own type.
func (r *jobReader) set(field reflect.Value, value any, at hcl.Range) {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	switch v := value.(type) {
	case string:
		if field.Type() == reflect.TypeFor[time.Duration]() {
			d, err := time.ParseDuration(v)
			if err != nil {
				r.fail(at, "%v", err)
			}
			field.SetInt(int64(d))
			return
		}
		if field.Kind() == reflect.String {
			field.SetString(v)
			return
		}
	case bool:
		if field.Kind() == reflect.Bool {
			field.SetBool(v)
			return
		}
	case int64:
		switch field.Kind() {
		case reflect.Int, reflect.Int8, reflect.Int64:
			if field.Type() != reflect.TypeFor[time.Duration]() {
				field.SetInt(v)
				return
			}
		case reflect.Uint8, reflect.Uint64:
			field.SetUint(uint64(v))
			return
		}
	case []any:
		if field.Kind() == reflect.Slice {
			for _, one := range v {
				element := reflect.New(field.Type().Elem()).Elem()
				r.set(element, one, at)
				field.Set(reflect.Append(field, element))
			}
			return
		}
	}
	r.fail(at, "%v is no %s", value, field.Type())
}

// fieldsOf are the fields of a type by the names that HCL has for them.
func fieldsOf(of reflect.Type) map[string]int {
	all := map[string]int{}
	for i := range of.NumField() {
		tag := of.Field(i).Tag.Get("hcl")
		name, kind, _ := strings.Cut(tag, ",")
		if kind == "label" {
			name = "label"
		}
		if name != "" {
			all[name] = i
		}
	}
	return all
}

// body fills a struct.
func (r *jobReader) body(into reflect.Value, labels []string, body *hclsyntax.Body) {
	fields := fieldsOf(into.Type())
	for _, label := range labels {
		index, found := fields["label"]
		if !found {
			r.fail(body.SrcRange, "a label %q is not expected", label)
			continue
		}
		r.set(into.Field(index), label, body.SrcRange)
	}
	for name, attribute := range body.Attributes {
		index, found := fields[name]
		if name == "distinct_hosts" && into.Type() == reflect.TypeFor[api.Constraint]() { // Nomad's short form
			r.set(into.FieldByName("Operand"), name, attribute.SrcRange)
			continue
		}
		if !found {
			r.fail(attribute.SrcRange, "%s has no %q", into.Type(), name)
			continue
		}
		r.set(into.Field(index), r.value(attribute.Expr), attribute.SrcRange)
	}
	for _, block := range body.Blocks {
		index, found := fields[block.Type]
		if block.Type == "port" && into.Type() == reflect.TypeFor[api.NetworkResource]() {
			r.port(into, block)
			continue
		}
		if !found {
			r.fail(block.Range(), "%s has no block %q", into.Type(), block.Type)
			continue
		}
		r.block(into.Field(index), block)
	}
}

// port is static or dynamic, in two fields.
func (r *jobReader) port(network reflect.Value, block *hclsyntax.Block) {
	var port api.Port
	r.body(reflect.ValueOf(&port).Elem(), block.Labels, block.Body)
	name := "DynamicPorts"
	if port.Value != 0 {
		name = "ReservedPorts"
	}
	list := network.FieldByName(name)
	list.Set(reflect.Append(list, reflect.ValueOf(port)))
}

func (r *jobReader) block(field reflect.Value, block *hclsyntax.Block) {
	switch {
	case field.Kind() == reflect.Map:
		field.Set(reflect.MakeMap(field.Type()))
		for name, attribute := range block.Body.Attributes {
			value := r.value(attribute.Expr)
			if field.Type().Elem().Kind() == reflect.String {
				value = fmt.Sprint(value)
			}
			field.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(value))
		}
	case field.Kind() == reflect.Slice:
		element := reflect.New(field.Type().Elem()).Elem()
		r.block(element, block)
		field.Set(reflect.Append(field, element))
	case field.Kind() == reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
		r.body(field.Elem(), block.Labels, block.Body)
	default:
		r.body(field, block.Labels, block.Body)
	}
}

func readJob(t *testing.T, source []byte) (*api.Job, []error) {
	t.Helper()
	file, diagnostics := hclsyntax.ParseConfig(source, "shop.nomad.hcl", hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	r := &jobReader{source: source, vars: map[string]string{}}
	var job *api.Job
	for _, block := range file.Body.(*hclsyntax.Body).Blocks {
		switch block.Type {
		case "variable":
			r.vars[block.Labels[0]] = fmt.Sprint(r.value(block.Body.Attributes["default"].Expr))
		case "job":
			job = &api.Job{}
			r.body(reflect.ValueOf(job).Elem(), nil, block.Body)
			job.ID, job.Name = &block.Labels[0], &block.Labels[0]
		default:
			r.fail(block.Range(), "%q is neither a variable nor a job", block.Type)
		}
	}
	if job == nil {
		t.Fatal("there is no job")
	}
	return job, r.errs
}

func TestNomad(t *testing.T) {
	job, errs := readJob(t, []byte(read(t, "deploy/nomad/shop.nomad.hcl")))
	for _, err := range errs {
		t.Error(err)
	}
	job.Canonicalize()
	if len(job.TaskGroups) != 4 || job.Update == nil || *job.Update.Canary != 1 || !*job.Update.AutoRevert || *job.Update.HealthCheck != "checks" {
		t.Fatalf("%d groups, update %+v", len(job.TaskGroups), job.Update)
	}
	for _, group := range job.TaskGroups {
		checkGroup(t, group)
	}
}

func checkGroup(t *testing.T, group *api.TaskGroup) {
	t.Helper()
	name := *group.Name
	if *group.Count < 2 || len(group.Tasks) != 1 || len(group.Networks) != 1 || len(group.Services) != 1 {
		t.Fatalf("group %s: %d times %d tasks", name, *group.Count, len(group.Tasks))
	}
	task, service := group.Tasks[0], group.Services[0]
	if image, _, _ := strings.Cut(filepath.Base(fmt.Sprint(task.Config["image"])), ":"); image != name {
		t.Errorf("group %s runs %v", name, task.Config["image"])
	}
	var args []string
	for _, arg := range task.Config["args"].([]any) {
		args = append(args, arg.(string))
	}
	checkProgram(t, "nomad: "+name, name, args)
	checkSettings(t, "nomad: "+name, task.Env)
	ports := map[string]bool{}
	for _, port := range append(group.Networks[0].DynamicPorts, group.Networks[0].ReservedPorts...) {
		ports[port.Label] = true
	}
	for _, text := range append(args, slices.Collect(maps.Values(task.Env))...) {
		for _, prefix := range []string{"${NOMAD_PORT_", "${NOMAD_ADDR_", "${NOMAD_IP_"} {
			if _, after, found := strings.Cut(text, prefix); found && !ports[strings.TrimSuffix(after, "}")] {
				t.Errorf("group %s has no port for %s", name, text)
			}
		}
	}
	kind := "grpc"
	if isHTTP(name) {
		kind = "http"
	}
	if len(service.Checks) != 1 || service.Checks[0].Type != kind || !ports[service.PortLabel] || len(service.CanaryTags) == 0 || len(service.Tags) == 0 ||
		kind == "http" && service.Checks[0].Path != "/readyz" {
		t.Errorf("group %s is checked by %+v at port %q, tags %v, of canaries %v", name, service.Checks, service.PortLabel, service.Tags, service.CanaryTags)
	}
	if kind == "grpc" && service.Name == name {
		t.Errorf("group %s is registered twice under one name", name)
	}
	if task.KillSignal != "SIGTERM" || task.KillTimeout == nil {
		t.Fatalf("group %s is stopped by %q", name, task.KillSignal)
	}
	// kill_timeout begins with the signal, after shutdown_delay.
	checkGrace(t, "nomad: "+name, 0, *task.KillTimeout)
	if *task.KillTimeout > 30*time.Second {
		t.Errorf("group %s: Nomad's clients allow a kill_timeout of 30 s", name)
	}
	if group.ShutdownDelay == nil || *group.ShutdownDelay < time.Second {
		t.Errorf("group %s gets its signal while clients still find it", name)
	}
	if task.Config["readonly_rootfs"] != true || task.User != "65532" || task.Config["cap_drop"] == nil {
		t.Errorf("group %s is not locked up: %v", name, task.Config)
	}
}

// The reader can fail.
func TestJobsAreReallyChecked(t *testing.T) {
	source := read(t, "deploy/nomad/shop.nomad.hcl")
	for from, to := range map[string]string{
		"kill_timeout ":                      "kill_timeouts ",
		"canary            = 1":              "canary            = true",
		"min_healthy_time  = \"5s\"":         "min_healthy_time  = \"5 seconds\"",
		"canary_tags = [\"canary\"]":         "canary_tags = [7]",
		"check {":                            "chek {",
		"${var.version}":                     "${var.release}",
		"kill_signal  = \"SIGTERM\"":         "kill_signal  = [\"SIGTERM\"]",
		"resources {":                        "resources \"a\" {",
		"    shutdown_delay = \"2s\"":        "    shutdown_delay = 2",
		"attribute = \"${node.datacenter}\"": "attribut = \"${node.datacenter}\"",
	} {
		changed := strings.Replace(source, from, to, 1)
		if changed == source {
			t.Errorf("%q is not in the job", from)
			continue
		}
		if _, errs := readJob(t, []byte(changed)); len(errs) != 1 {
			t.Errorf("%q: %v, want an error", to, errs)
		}
	}
}

type taskTimes struct{ shutdownDelay, killTimeout time.Duration }

// nomadTimes are those of the first group.
func nomadTimes(t *testing.T) taskTimes {
	t.Helper()
	job, _ := readJob(t, []byte(read(t, "deploy/nomad/shop.nomad.hcl")))
	return taskTimes{*job.TaskGroups[0].ShutdownDelay, *job.TaskGroups[0].Tasks[0].KillTimeout}
}
