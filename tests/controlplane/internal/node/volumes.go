package node

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

type payload map[string]volumeutil.FileProjection

// filesOf returns the files of a volume whose content comes from the API server; ok is false for other kinds.
func (p *pod) filesOf(ctx context.Context, v *v1.Volume) (files payload, ok bool, err error) {
	files = payload{}
	switch {
	case v.ConfigMap != nil:
		return files, true, p.addConfigMap(ctx, files, v.ConfigMap.Name, v.ConfigMap.Items, mode(v.ConfigMap.DefaultMode), isTrue(v.ConfigMap.Optional))
	case v.Secret != nil:
		return files, true, p.addSecret(ctx, files, v.Secret.SecretName, v.Secret.Items, mode(v.Secret.DefaultMode), isTrue(v.Secret.Optional))
	case v.DownwardAPI != nil:
		return files, true, p.addDownward(files, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		def := mode(v.Projected.DefaultMode)
		for _, s := range v.Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				err = p.addConfigMap(ctx, files, s.ConfigMap.Name, s.ConfigMap.Items, def, isTrue(s.ConfigMap.Optional))
			case s.Secret != nil:
				err = p.addSecret(ctx, files, s.Secret.Name, s.Secret.Items, def, isTrue(s.Secret.Optional))
			case s.DownwardAPI != nil:
				err = p.addDownward(files, s.DownwardAPI.Items, def)
			case s.ServiceAccountToken != nil:
				err = p.addToken(ctx, files, v.Name, s.ServiceAccountToken, def)
			default:
				err = fmt.Errorf("volume %s: this kind of projection is not known here", v.Name)
			}
			if err != nil {
				return nil, true, err
			}
		}
		return files, true, nil
	}
	return nil, false, nil
}

func mode(m *int32) int32 {
	if m == nil {
		return 0o644
	}
	return *m
}

// addKeys adds all keys of an object, or the chosen ones.
func addKeys(files payload, object string, data map[string][]byte, items []v1.KeyToPath, def int32, optional bool) error {
	if len(items) == 0 {
		for k, b := range data {
			files[k] = volumeutil.FileProjection{Data: b, Mode: def}
		}
		return nil
	}
	for _, i := range items {
		b, ok := data[i.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s has no key %q", object, i.Key)
		}
		m := def
		if i.Mode != nil {
			m = *i.Mode
		}
		files[i.Path] = volumeutil.FileProjection{Data: b, Mode: m}
	}
	return nil
}

func (p *pod) addConfigMap(ctx context.Context, files payload, name string, items []v1.KeyToPath, def int32, optional bool) error {
	m, err := p.agent.client.CoreV1().ConfigMaps(p.object().Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return unless(errors.IsNotFound(err) && optional, err)
	}
	data := map[string][]byte{}
	for k, s := range m.Data {
		data[k] = []byte(s)
	}
	for k, b := range m.BinaryData {
		data[k] = b
	}
	return addKeys(files, "ConfigMap "+name, data, items, def, optional)
}

func (p *pod) addSecret(ctx context.Context, files payload, name string, items []v1.KeyToPath, def int32, optional bool) error {
	s, err := p.agent.client.CoreV1().Secrets(p.object().Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return unless(errors.IsNotFound(err) && optional, err)
	}
	return addKeys(files, "Secret "+name, s.Data, items, def, optional)
}

func (p *pod) addDownward(files payload, items []v1.DownwardAPIVolumeFile, def int32) error {
	o := p.object()
	for _, i := range items {
		var text string
		var err error
		switch {
		case i.FieldRef != nil:
			text, err = podField(o, i.FieldRef.FieldPath)
		case i.ResourceFieldRef != nil:
			text, err = resourceField(o, i.ResourceFieldRef.ContainerName, i.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		m := def
		if i.Mode != nil {
			m = *i.Mode
		}
		files[i.Path] = volumeutil.FileProjection{Data: []byte(text), Mode: m}
	}
	return nil
}

type token struct {
	text    string
	renewAt time.Time
}

// addToken adds a token that is bound to the pod; it is renewed at 80 % of its life.
func (p *pod) addToken(ctx context.Context, files payload, volume string, s *v1.ServiceAccountTokenProjection, def int32) error {
	key := volume + "/" + s.Path
	t, ok := p.tokens[key]
	if !ok || time.Now().After(t.renewAt) {
		o := p.object()
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: s.ExpirationSeconds,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: o.Name, UID: o.UID},
		}}
		if s.Audience != "" {
			request.Spec.Audiences = []string{s.Audience}
		}
		got, err := p.agent.client.CoreV1().ServiceAccounts(o.Namespace).CreateToken(ctx, o.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("token of service account %s: %w", o.Spec.ServiceAccountName, err)
		}
		t = token{got.Status.Token, time.Now().Add(time.Until(got.Status.ExpirationTimestamp.Time) * 8 / 10)}
		p.tokens[key] = t
	}
	files[s.Path] = volumeutil.FileProjection{Data: []byte(t.text), Mode: def}
	return nil
}

// mountVolumes returns the folder of each volume. Only the first container waits for the API server: the files are kept up to
// date from then on, so that a container starts again while the API server is away, as with a kubelet.
func (p *pod) mountVolumes(ctx context.Context) (map[string]string, error) {
	p.mu.Lock()
	dirs := p.mounted
	p.mu.Unlock()
	if dirs != nil {
		return dirs, nil
	}
	dirs, err := p.writeVolumes(ctx)
	if err == nil {
		p.mu.Lock()
		p.mounted = dirs
		p.mu.Unlock()
	}
	return dirs, err
}

// writeVolumes brings the files of all volumes up to date, each volume at one stroke, and returns the folder of each.
func (p *pod) writeVolumes(ctx context.Context) (map[string]string, error) {
	o := p.object()
	p.volumesMu.Lock()
	defer p.volumesMu.Unlock()
	dirs := map[string]string{}
	for i := range o.Spec.Volumes {
		v := &o.Spec.Volumes[i]
		if v.HostPath != nil {
			dirs[v.Name] = v.HostPath.Path
			continue
		}
		dir := filepath.Join(p.dir, "volumes", v.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		dirs[v.Name] = dir
		if v.EmptyDir != nil {
			if err := p.openToGroup(dir, 0o777); err != nil {
				return nil, err
			}
			continue
		}
		files, known, err := p.filesOf(ctx, v)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		if !known {
			return nil, fmt.Errorf("volume %s: only configMap, secret, projected, downwardAPI, emptyDir and hostPath are known here", v.Name)
		}
		w, err := volumeutil.NewAtomicWriter(dir, v.Name)
		if err != nil {
			return nil, err
		}
		if err := w.Write(files, func(sub string) error { return p.giveToGroup(filepath.Join(dir, sub)) }); err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return dirs, nil
}

func (p *pod) fsGroup() (int, bool) {
	if sc := p.object().Spec.SecurityContext; sc != nil && sc.FSGroup != nil && os.Geteuid() == 0 && !inUserNamespace() {
		return int(*sc.FSGroup), true
	}
	return 0, false
}

func (p *pod) openToGroup(dir string, m os.FileMode) error {
	if group, ok := p.fsGroup(); ok {
		if err := os.Chown(dir, -1, group); err != nil {
			return err
		}
		m |= os.ModeSetgid
	}
	return os.Chmod(dir, m)
}

// giveToGroup lets the pod's fsGroup read what a volume holds.
func (p *pod) giveToGroup(dir string) error {
	group, ok := p.fsGroup()
	if !ok {
		return nil
	}
	return filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.Mode()&os.ModeSymlink != 0 {
			return err
		}
		if err := os.Chown(path, -1, group); err != nil {
			return err
		}
		bits := os.FileMode(0o440)
		if info.IsDir() {
			bits = 0o550
		}
		return os.Chmod(path, info.Mode().Perm()|bits)
	})
}

// readMounted reads a file as a container sees it, without a file system: for fake containers.
func (p *pod) readMounted(ctx context.Context, c *v1.Container, name string) ([]byte, error) {
	o := p.object()
	for _, m := range c.VolumeMounts {
		rest, ok := strings.CutPrefix(path.Clean(name), path.Clean(m.MountPath))
		if !ok || rest != "" && !strings.HasPrefix(rest, "/") {
			continue
		}
		key := strings.TrimPrefix(path.Join(m.SubPath, rest), "/")
		for i := range o.Spec.Volumes {
			v := &o.Spec.Volumes[i]
			if v.Name != m.Name {
				continue
			}
			files, known, err := p.filesOf(ctx, v)
			if err != nil {
				return nil, err
			}
			if f, ok := files[key]; known && ok {
				return f.Data, nil
			}
		}
	}
	return nil, fmt.Errorf("%s: no mounted volume has this file", name)
}
