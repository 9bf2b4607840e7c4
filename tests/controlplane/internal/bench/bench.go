// Package bench measures a cluster as a controller sees it: by watching EndpointSlices.
package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

// The promises for an idle machine with two cores.
const (
	promisedReady     = 5 * time.Second
	promisedEndpoint  = 100 * time.Millisecond
	promisedManyReady = 10 * time.Second
	// manyPods is the number to which promisedManyReady belongs.
	manyPods = 500
)

// Main starts a cluster, measures it, prints a table and returns the exit code.
func Main(args []string) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 50, "pods made and deleted one after the other")
	pods := flags.Int("pods", manyPods, "replicas of one Deployment")
	check := flags.Float64("check", 0, "fail when a value is worse than this many times its promise; 0 only prints")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *rounds < 1 || *pods < 1 {
		fmt.Fprintln(os.Stderr, "controlplane bench: --rounds and --pods must be at least 1")
		return 2
	}
	b := &bench{check: *check}
	if err := b.run(*rounds, *pods); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane bench:", err)
		return 1
	}
	if b.broken > 0 {
		fmt.Fprintf(os.Stderr, "controlplane bench: %d values are worse than %g times their promise\n", b.broken, b.check)
		return 1
	}
	return 0
}

type bench struct {
	check  float64
	broken int
	client kubernetes.Interface

	mu      sync.Mutex
	slices  map[string]*discoveryv1.EndpointSlice
	changed chan struct{}
}

// row prints one value and compares it with its promise; 0 means that nothing is promised.
func (b *bench) row(what string, value, promise time.Duration) {
	said := ""
	if promise > 0 {
		said = fmt.Sprintf("≤ %s", promise)
		if b.check > 0 && float64(value) > b.check*float64(promise) {
			b.broken++
			said += fmt.Sprintf("  WORSE than %g times that", b.check)
		}
	}
	fmt.Printf("%-52s %10s   %s\n", what, value.Round(100*time.Microsecond), said)
}

func (b *bench) run(rounds, pods int) (err error) {
	began := time.Now()
	cmd := exec.Command("/proc/self/exe", "up")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = stdin.Close()
		err = errors.Join(err, cmd.Wait())
	}()
	line, err := bufio.NewReaderSize(stdout, 64<<10).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the cluster did not become ready: %w", err)
	}
	took := time.Since(began)
	var ready struct{ Kubeconfig string }
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", ready.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	fmt.Printf("%-52s %10s   %s\n", "", "measured", "promised when idle")
	b.row("up → ready", took, promisedReady)
	if err := b.follow(ctx); err != nil {
		return err
	}
	if err := b.singlePods(ctx, rounds); err != nil {
		return err
	}
	return b.manyPods(ctx, pods)
}

// follow keeps a copy of all slices of the namespace.
func (b *bench) follow(ctx context.Context) error {
	b.slices, b.changed = map[string]*discoveryv1.EndpointSlice{}, make(chan struct{}, 1)
	w, err := b.client.DiscoveryV1().EndpointSlices("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	go func() {
		for e := range w.ResultChan() {
			s, ok := e.Object.(*discoveryv1.EndpointSlice)
			if !ok {
				continue
			}
			b.mu.Lock()
			if e.Type == watch.Deleted {
				delete(b.slices, s.Name)
			} else {
				b.slices[s.Name] = s
			}
			b.mu.Unlock()
			select {
			case b.changed <- struct{}{}:
			default:
			}
		}
	}()
	return nil
}

// until waits for a state of the endpoints of a service and returns the time it took.
func (b *bench) until(ctx context.Context, service string, holds func([]discoveryv1.Endpoint) bool) (time.Duration, error) {
	began := time.Now()
	for {
		var all []discoveryv1.Endpoint
		b.mu.Lock()
		for _, s := range b.slices {
			if s.Labels[discoveryv1.LabelServiceName] == service {
				all = append(all, s.Endpoints...)
			}
		}
		b.mu.Unlock()
		if holds(all) {
			return time.Since(began), nil
		}
		select {
		case <-b.changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("endpoints of %s: %w; %d are known", service, ctx.Err(), len(all))
		}
	}
}

func (b *bench) service(ctx context.Context, name string) error {
	_, err := b.client.CoreV1().Services("default").Create(ctx, &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []v1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	return err
}

func podSpec() v1.PodSpec {
	return v1.PodSpec{Containers: []v1.Container{{Name: "web", Image: "web", Ports: []v1.ContainerPort{{ContainerPort: 80}}}}}
}

func (b *bench) singlePods(ctx context.Context, rounds int) error {
	if err := b.service(ctx, "single"); err != nil {
		return err
	}
	var created, terminating, gone []time.Duration
	for i := range rounds {
		name := fmt.Sprintf("single-%d", i)
		began := time.Now()
		_, err := b.client.CoreV1().Pods("default").Create(ctx, &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "single"}, Annotations: map[string]string{"fakenode/terminate": "300ms"}},
			Spec:       podSpec(),
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if _, err := b.until(ctx, "single", func(all []discoveryv1.Endpoint) bool {
			return len(all) == 1 && ptr.Deref(all[0].Conditions.Ready, false)
		}); err != nil {
			return err
		}
		created = append(created, time.Since(began))
		began = time.Now()
		if err := b.client.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if _, err := b.until(ctx, "single", func(all []discoveryv1.Endpoint) bool {
			return len(all) == 1 && ptr.Deref(all[0].Conditions.Terminating, false)
		}); err != nil {
			return err
		}
		terminating = append(terminating, time.Since(began))
		if _, err := b.until(ctx, "single", func(all []discoveryv1.Endpoint) bool { return len(all) == 0 }); err != nil {
			return err
		}
		gone = append(gone, time.Since(began))
	}
	for _, s := range []struct {
		what    string
		all     []time.Duration
		promise time.Duration
	}{{"create pod → ready endpoint", created, promisedEndpoint}, {"delete pod → terminating endpoint", terminating, promisedEndpoint}, {"delete pod → endpoint gone, drain 300 ms", gone, 0}} {
		slices.Sort(s.all)
		b.row(s.what+", median", quantile(s.all, 50), 0)
		b.row(s.what+", p99", quantile(s.all, 99), s.promise)
	}
	return nil
}

// quantile is the smallest value that is not below the given percentage of a sorted list.
func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)*percent+99)/100-1]
}

func (b *bench) manyPods(ctx context.Context, pods int) error {
	if err := b.service(ctx, "many"); err != nil {
		return err
	}
	labels := map[string]string{"app": "many"}
	began := time.Now()
	_, err := b.client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "many"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(pods)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := b.until(ctx, "many", func(all []discoveryv1.Endpoint) bool {
		ready := 0
		for _, e := range all {
			if ptr.Deref(e.Conditions.Ready, false) {
				ready++
			}
		}
		return ready >= pods
	}); err != nil {
		return err
	}
	promise := time.Duration(0)
	if pods == manyPods {
		promise = promisedManyReady
	}
	b.row(fmt.Sprintf("%d replicas → all ready endpoints", pods), time.Since(began), promise)
	return nil
}
