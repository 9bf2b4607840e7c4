package node

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// pod is one pod on one of our nodes. Its goroutine leads it through its life; a second one reports its status.
type pod struct {
	agent  *agent
	hostIP netip.Addr
	dir    string
	began  metav1.Time

	// gone closes when the API server no longer has the pod: what is left of it dies at once.
	gone chan struct{}
	// stopping closes when its deletion has begun.
	stopping chan struct{}
	// finished closes when no container runs any more and none will.
	finished chan struct{}
	// kick asks for a report of the status.
	kick chan struct{}

	volumesMu sync.Mutex
	tokens    map[string]token // by volume and path; under volumesMu or before the first container runs

	// ip, network and containers are set before containers start and stay.
	ip      netip.Addr
	network *podNetwork
	inits   []*container
	mains   []*container

	mu          sync.Mutex
	latest      *v1.Pod
	sandbox     string            // why there is no address yet
	mounted     map[string]string // the folder of each volume, when all were written once
	hasIP       bool
	initialised bool
	phase       v1.PodPhase // Succeeded or Failed when it has come to that
	since       map[v1.PodConditionType]v1.PodCondition
}

func newPod(a *agent, o *v1.Pod, hostIP netip.Addr) *pod {
	p := &pod{
		agent: a, hostIP: hostIP, latest: o, began: metav1.Now(), dir: filepath.Join(a.podsDir(), string(o.UID)),
		gone: make(chan struct{}), stopping: make(chan struct{}), finished: make(chan struct{}), kick: make(chan struct{}, 1),
		tokens: map[string]token{}, since: map[v1.PodConditionType]v1.PodCondition{},
	}
	for i := range o.Spec.InitContainers {
		c := newContainer(p, &o.Spec.InitContainers[i])
		c.init = true
		c.sidecar = c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == v1.ContainerRestartPolicyAlways
		p.inits = append(p.inits, c)
	}
	for i := range o.Spec.Containers {
		p.mains = append(p.mains, newContainer(p, &o.Spec.Containers[i]))
	}
	if o.DeletionTimestamp != nil {
		close(p.stopping)
	}
	return p
}

func (p *pod) object() *v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest
}

// update takes a newer version of the object; calls come one after the other.
func (p *pod) update(o *v1.Pod) {
	p.mu.Lock()
	old := p.latest
	p.latest = o
	p.mu.Unlock()
	if o.DeletionTimestamp != nil && old.DeletionTimestamp == nil {
		close(p.stopping)
	}
	// Annotations and readiness gates change the status.
	for _, c := range p.all() {
		select {
		case c.poke <- struct{}{}:
		default:
		}
	}
	p.changed()
}

// changed asks for a report; several requests become one.
func (p *pod) changed() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *pod) all() []*container { return append(append([]*container{}, p.inits...), p.mains...) }

// hasProcesses says whether any container runs a local program: then the pod has a network namespace of its own.
func (p *pod) hasProcesses() bool {
	for _, c := range p.all() {
		if c.program != nil {
			return true
		}
	}
	return false
}

func (p *pod) annotation(name string) string { return p.object().Annotations["fakenode/"+name] }

// isEnding says whether the pod is being deleted or gone.
func (p *pod) isEnding() bool {
	select {
	case <-p.gone:
		return true
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// pause waits; false when the pod's end began meanwhile.
func (p *pod) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.gone:
	case <-p.stopping:
	}
	return false
}

func (p *pod) run() {
	if phase := p.object().Status.Phase; phase == v1.PodSucceeded || phase == v1.PodFailed {
		close(p.finished)
		p.awaitDeletion()
		return
	}
	reported := make(chan struct{})
	go func() { defer close(reported); p.report() }()
	if p.setUp() {
		p.live()
	}
	p.terminate()
	p.mu.Lock()
	// Completed pods keep their address in their status, as with a kubelet.
	ended := p.phase != ""
	p.mu.Unlock()
	p.release()
	close(p.finished)
	<-reported
	if ended {
		p.awaitDeletion()
	} else {
		p.confirmDeletion()
	}
}

// setUp gives the pod its address; false when its end came first.
func (p *pod) setUp() bool {
	for {
		err := p.connect()
		if err == nil {
			break
		}
		p.mu.Lock()
		p.sandbox = err.Error()
		p.mu.Unlock()
		p.changed()
		if !p.pause(500 * time.Millisecond) {
			return false
		}
	}
	p.mu.Lock()
	p.hasIP, p.sandbox = true, ""
	p.mu.Unlock()
	return true
}

// connect takes an address, and makes the namespace of a process pod. A restarted node part gives pods the address they had.
func (p *pod) connect() error {
	o := p.object()
	wanted, _ := netip.ParseAddr(o.Status.PodIP)
	if p.hasProcesses() {
		if err := os.MkdirAll(p.dir, 0o755); err != nil {
			return err
		}
	}
	if o.Spec.HostNetwork {
		p.ip = p.hostIP
		return nil
	}
	if p.hasProcesses() {
		n, err := p.agent.newPodNetwork(wanted, o)
		if err != nil {
			return err
		}
		p.ip, p.network = n.ip, n
		return nil
	}
	p.agent.mu.Lock()
	defer p.agent.mu.Unlock()
	ip, err := p.agent.fakeIPs.Take(wanted)
	p.ip = ip
	return err
}

func (p *pod) release() {
	if p.network != nil {
		p.agent.closePodNetwork(p.network)
	} else if p.hasIP && !p.object().Spec.HostNetwork {
		p.agent.mu.Lock()
		p.agent.fakeIPs.Free(p.ip)
		p.agent.mu.Unlock()
	}
	if err := os.RemoveAll(p.dir); err != nil {
		logf("remove %s: %v", p.dir, err)
	}
}

// live starts the containers in order and waits until the pod's end begins or all of them have finished.
func (p *pod) live() {
	if p.hasProcesses() {
		go p.refreshVolumes()
	}
	for _, c := range p.inits {
		go c.run()
		wait := c.done
		if c.sidecar {
			wait = c.startedOnce
		}
		select {
		case <-wait:
		case <-p.stopping:
			return
		case <-p.gone:
			return
		}
		if !c.sidecar && c.exitCode() != 0 {
			p.setPhase(v1.PodFailed)
			return
		}
	}
	p.mu.Lock()
	p.initialised = true
	p.mu.Unlock()
	for _, c := range p.mains {
		go c.run()
	}
	for _, c := range p.mains {
		select {
		case <-c.done:
		case <-p.stopping:
			return
		case <-p.gone:
			return
		}
	}
	phase := v1.PodSucceeded
	for _, c := range p.mains {
		if c.exitCode() != 0 {
			phase = v1.PodFailed
		}
	}
	p.setPhase(phase)
}

func (p *pod) setPhase(phase v1.PodPhase) {
	p.mu.Lock()
	p.phase = phase
	p.mu.Unlock()
	p.changed()
}

// terminate stops the containers within the grace period: the preStop hooks of all of them run at once; SIGTERM goes to the
// main ones first, then to sidecars in reverse order.
func (p *pod) terminate() {
	o := p.object()
	grace := 30 * time.Second
	if o.Spec.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*o.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	if o.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*o.DeletionGracePeriodSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	go func() {
		select {
		case <-p.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	stopAll := func(list []*container) {
		var all sync.WaitGroup
		for _, c := range list {
			all.Go(func() { c.stop(ctx) })
		}
		all.Wait()
	}
	for _, c := range p.inits {
		go c.prepareStop(ctx)
	}
	stopAll(p.mains)
	for i := len(p.inits) - 1; i >= 0; i-- {
		stopAll(p.inits[i : i+1])
	}
}

// confirmDeletion tells the API server that nothing of the pod runs any more.
func (p *pod) confirmDeletion() {
	o := p.object()
	for {
		select {
		case <-p.gone:
			return
		default:
		}
		err := p.agent.client.CoreV1().Pods(o.Namespace).Delete(context.Background(), o.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &o.UID},
		})
		if err == nil || errors.IsNotFound(err) || errors.IsConflict(err) {
			return
		}
		logf("delete %s/%s: %v", o.Namespace, o.Name, err)
		time.Sleep(100 * time.Millisecond)
	}
}

func (p *pod) awaitDeletion() {
	select {
	case <-p.stopping:
		p.confirmDeletion()
	case <-p.gone:
	}
}

// refreshVolumes follows changes of mounted ConfigMaps and Secrets and renews tokens.
func (p *pod) refreshVolumes() {
	for {
		select {
		case <-p.finished:
			return
		case <-p.gone:
			return
		case <-time.After(time.Second):
		}
		if p.isEnding() {
			return
		}
		if _, err := p.writeVolumes(context.Background()); err != nil {
			logf("volumes of %s: %v", p.object().Name, err)
		}
	}
}

// report sends the status whenever it has changed, until the pod has finished.
func (p *pod) report() {
	var sent v1.PodStatus
	for {
		o := p.object()
		var again <-chan time.Time
		if status := p.status(); !equality.Semantic.DeepEqual(sent, status) {
			if p.agent.patchStatus(o, status) {
				sent = status
			} else {
				again = time.After(100 * time.Millisecond)
			}
		}
		select {
		case <-p.kick:
		case <-again:
		case <-p.gone:
			return
		case <-p.finished:
			// How its containers ended is told of a pod that is deleted, too, as a kubelet does.
			for !equality.Semantic.DeepEqual(sent, p.status()) && !p.agent.patchStatus(p.object(), p.status()) {
				select {
				case <-p.gone:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
			return
		}
	}
}

// status is what a kubelet would report now.
func (p *pod) status() v1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.latest
	s := v1.PodStatus{
		Phase: v1.PodPending, StartTime: &p.began, HostIP: p.hostIP.String(), HostIPs: []v1.HostIP{{IP: p.hostIP.String()}},
		QOSClass: o.Status.QOSClass, ObservedGeneration: o.Generation,
	}
	if p.hasIP {
		s.PodIP, s.PodIPs = p.ip.String(), []v1.PodIP{{IP: p.ip.String()}}
	}
	ready, running := true, len(p.mains) > 0
	for _, c := range p.inits {
		s.InitContainerStatuses = append(s.InitContainerStatuses, c.statusLocked(p.sandbox))
		ready = ready && (!c.sidecar || c.ready)
	}
	for _, c := range p.mains {
		s.ContainerStatuses = append(s.ContainerStatuses, c.statusLocked(p.sandbox))
		ready = ready && c.ready
		running = running && (c.state.Running != nil || c.state.Terminated != nil || c.restarts > 0)
	}
	if running {
		s.Phase = v1.PodRunning
	}
	if p.phase != "" {
		s.Phase, ready = p.phase, false
	}
	gates := ready
	for _, g := range o.Spec.ReadinessGates {
		open := false
		for _, c := range o.Status.Conditions {
			open = open || c.Type == g.ConditionType && c.Status == v1.ConditionTrue
		}
		gates = gates && open
	}
	reason := ""
	if !ready {
		reason = "ContainersNotReady"
	}
	s.Conditions = []v1.PodCondition{
		p.condition(v1.PodScheduled, true, ""),
		p.condition(v1.PodReadyToStartContainers, p.hasIP, ""),
		p.condition(v1.PodInitialized, p.initialised, ""),
		p.condition(v1.ContainersReady, ready, reason),
	}
	if ready && !gates {
		reason = "ReadinessGatesNotReady"
	}
	s.Conditions = append(s.Conditions, p.condition(v1.PodReady, gates, reason))
	return s
}

// condition keeps the time of the last change; the caller holds the lock.
func (p *pod) condition(kind v1.PodConditionType, holds bool, reason string) v1.PodCondition {
	status := v1.ConditionFalse
	if holds {
		status = v1.ConditionTrue
	}
	c, ok := p.since[kind]
	if !ok || c.Status != status || c.Reason != reason {
		at := metav1.Now()
		if ok && c.Status == status {
			at = c.LastTransitionTime
		}
		c = v1.PodCondition{Type: kind, Status: status, Reason: reason, LastTransitionTime: at}
		p.since[kind] = c
	}
	return c
}

// logOf returns the log of a container's current or previous run.
func (p *pod) logOf(name string, previous bool) *logBuffer {
	for _, c := range p.all() {
		if c.spec.Name == name {
			p.mu.Lock()
			defer p.mu.Unlock()
			if previous {
				return c.previousLog
			}
			return c.log
		}
	}
	return nil
}

func (p *pod) String() string {
	o := p.object()
	return fmt.Sprintf("%s/%s", o.Namespace, o.Name)
}
