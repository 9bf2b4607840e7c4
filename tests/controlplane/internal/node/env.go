package node

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment resolves the variables of a container, as a kubelet does. Those of Services are left out but for the API server's.
func (p *pod) environment(ctx context.Context, c *v1.Container) (map[string]string, error) {
	o := p.object().DeepCopy()
	o.Status.PodIP = p.ip.String()
	o.Status.PodIPs = []v1.PodIP{{IP: p.ip.String()}}
	o.Status.HostIP = p.hostIP.String()
	env := map[string]string{
		"KUBERNETES_SERVICE_HOST": p.agent.config.Plan.APIService().String(),
		"KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
	}
	for _, from := range c.EnvFrom {
		data := map[string]string{}
		switch {
		case from.ConfigMapRef != nil:
			m, err := p.agent.client.CoreV1().ConfigMaps(o.Namespace).Get(ctx, from.ConfigMapRef.Name, metav1.GetOptions{})
			if err != nil && !(errors.IsNotFound(err) && isTrue(from.ConfigMapRef.Optional)) {
				return nil, err
			}
			if err == nil {
				data = m.Data
			}
		case from.SecretRef != nil:
			s, err := p.agent.client.CoreV1().Secrets(o.Namespace).Get(ctx, from.SecretRef.Name, metav1.GetOptions{})
			if err != nil && !(errors.IsNotFound(err) && isTrue(from.SecretRef.Optional)) {
				return nil, err
			}
			if err == nil {
				for k, v := range s.Data {
					data[k] = string(v)
				}
			}
		}
		for k, v := range data {
			env[from.Prefix+k] = v
		}
	}
	lookUp := func(name string) string {
		if v, ok := env[name]; ok {
			return v
		}
		return "$(" + name + ")"
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			env[e.Name] = expansion.Expand(e.Value, lookUp)
			continue
		}
		v, ok, err := p.valueFrom(ctx, o, c, e.ValueFrom)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", e.Name, err)
		}
		if ok {
			env[e.Name] = v
		}
	}
	return env, nil
}

// expandAll replaces $(NAME) in commands and arguments.
func expandAll(words []string, env map[string]string) []string {
	lookUp := func(name string) string {
		if v, ok := env[name]; ok {
			return v
		}
		return "$(" + name + ")"
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = expansion.Expand(w, lookUp)
	}
	return out
}

func isTrue(b *bool) bool { return b != nil && *b }

// valueFrom resolves one source; ok is false when it is optional and absent.
func (p *pod) valueFrom(ctx context.Context, o *v1.Pod, c *v1.Container, from *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = podField(o, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = resourceField(o, c.Name, from.ResourceFieldRef)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := p.agent.client.CoreV1().ConfigMaps(o.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, unless(errors.IsNotFound(err) && isTrue(ref.Optional), err)
		}
		v, found := m.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("key %q is not in ConfigMap %s", ref.Key, ref.Name)
		}
		return v, found, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := p.agent.client.CoreV1().Secrets(o.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", false, unless(errors.IsNotFound(err) && isTrue(ref.Optional), err)
		}
		v, found := s.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("key %q is not in Secret %s", ref.Key, ref.Name)
		}
		return string(v), found, nil
	}
	return "", false, fmt.Errorf("this kind of source is not known here")
}

func unless(excused bool, err error) error {
	if excused {
		return nil
	}
	return err
}

// podField reads what the downward API offers; fieldpath knows metadata only.
func podField(o *v1.Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return o.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return o.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return o.Status.HostIP, nil
	case "status.podIP", "status.podIPs":
		return o.Status.PodIP, nil
	}
	return fieldpath.ExtractFieldPathAsString(o, path)
}

func resourceField(o *v1.Pod, container string, ref *v1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	// An unset limit is what the node can give.
	return resource.ExtractResourceValueByContainerNameAndNodeAllocatable(ref, o, container, v1.ResourceList{"cpu": quantity("64"), "memory": quantity("256Gi"), "ephemeral-storage": quantity("1Ti")})
}

func environ(env map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}
