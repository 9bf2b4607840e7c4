package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"tidegate.dev/controlplane/internal/addr"
)

// services forwards the addresses of Services (cluster, load balancer, node ports) to ready endpoints, over TCP.
type services struct {
	agent    *agent
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	synced   []cache.InformerSynced

	mu      sync.Mutex
	dirty   map[types.NamespacedName]bool
	wake    chan struct{}
	pool    *addr.Pool
	given   map[types.NamespacedName]netip.Addr
	forward map[types.NamespacedName]map[netip.AddrPort]*forwarder
}

func newServices(a *agent, factory informers.SharedInformerFactory) *services {
	s := &services{
		agent: a, services: factory.Core().V1().Services().Lister(), slices: factory.Discovery().V1().EndpointSlices().Lister(),
		dirty: map[types.NamespacedName]bool{}, wake: make(chan struct{}, 1), pool: addr.NewPool(a.config.Plan.LoadBalancers()),
		given: map[types.NamespacedName]netip.Addr{}, forward: map[types.NamespacedName]map[netip.AddrPort]*forwarder{},
	}
	watch := func(informer cache.SharedIndexInformer, name func(metav1.Object) string) {
		note := func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if m, ok := o.(metav1.Object); ok {
				s.touch(types.NamespacedName{Namespace: m.GetNamespace(), Name: name(m)})
			}
		}
		// The error is of a stopped informer; these have not even started.
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, o any) { note(o) }, DeleteFunc: note})
		s.synced = append(s.synced, informer.HasSynced)
	}
	watch(factory.Core().V1().Services().Informer(), func(m metav1.Object) string { return m.GetName() })
	watch(factory.Discovery().V1().EndpointSlices().Informer(), func(m metav1.Object) string { return m.GetLabels()[discoveryv1.LabelServiceName] })
	return s
}

func (s *services) touch(name types.NamespacedName) {
	s.mu.Lock()
	s.dirty[name] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// start forwards the API server's own address and follows the Services. Addresses given by a predecessor are kept.
func (s *services) start() error {
	if !cache.WaitForCacheSync(context.Background().Done(), s.synced...) {
		return fmt.Errorf("the list of Services did not arrive")
	}
	api := netip.AddrPortFrom(s.agent.config.Plan.APIService(), 443)
	f := newForwarder(api)
	f.set([]netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(s.agent.config.ServerPort))})
	if f.failed != nil {
		return fmt.Errorf("address of the API server inside the cluster: %w", f.failed)
	}
	all, err := s.services.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, o := range all {
		for _, i := range o.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(i.IP); err == nil && wantsBalancer(o) {
				if got, err := s.pool.Take(a); err == nil {
					s.given[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = got
				}
			}
		}
	}
	go func() {
		for range s.wake {
			s.mu.Lock()
			names := s.dirty
			s.dirty = map[types.NamespacedName]bool{}
			s.mu.Unlock()
			for name := range names {
				s.reconcile(name)
			}
		}
	}()
	return nil
}

func wantsBalancer(o *v1.Service) bool {
	return o.Spec.Type == v1.ServiceTypeLoadBalancer && o.Spec.LoadBalancerClass == nil && o.DeletionTimestamp == nil
}

// reconcile brings the forwarders of one Service in line with it and its slices.
func (s *services) reconcile(name types.NamespacedName) {
	if name == (types.NamespacedName{Namespace: "default", Name: "kubernetes"}) {
		return
	}
	o, err := s.services.Services(name.Namespace).Get(name.Name)
	if err != nil {
		o = nil
	}
	wanted := map[netip.AddrPort][]netip.AddrPort{}
	if o != nil && o.Spec.Type != v1.ServiceTypeExternalName {
		slices, err := s.slices.EndpointSlices(name.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name.Name}))
		if err != nil {
			return
		}
		var at []netip.Addr
		for _, text := range o.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				at = append(at, a)
			}
		}
		if a, ok := s.balancerAddress(name, o); ok {
			at = append(at, a)
		}
		for _, port := range o.Spec.Ports {
			if port.Protocol != v1.ProtocolTCP && port.Protocol != "" {
				continue
			}
			to := endpoints(slices, port.Name)
			for _, a := range at {
				wanted[netip.AddrPortFrom(a, uint16(port.Port))] = to
			}
			for i := 0; port.NodePort != 0 && i < s.agent.config.Nodes; i++ {
				wanted[netip.AddrPortFrom(s.agent.config.Plan.NodeIP(i), uint16(port.NodePort))] = to
			}
		}
	} else {
		s.freeBalancer(name)
	}
	have := s.forward[name]
	for at, f := range have {
		if _, ok := wanted[at]; !ok {
			f.set(nil)
			delete(have, at)
		}
	}
	for at, to := range wanted {
		if have == nil {
			have = map[netip.AddrPort]*forwarder{}
			s.forward[name] = have
		}
		f := have[at]
		if f == nil {
			f = newForwarder(at)
			have[at] = f
		}
		f.set(to)
		if f.failed != nil {
			logf("forward %s for %s: %v", at, name, f.failed)
			// The address may still be held by a Service that is just going.
			time.AfterFunc(200*time.Millisecond, func() { s.touch(name) })
		}
	}
	if len(have) == 0 {
		delete(s.forward, name)
	}
}

// endpoints are the ready ones of a port; without any, those that still serve while they terminate, as kube-proxy does.
func endpoints(slices []*discoveryv1.EndpointSlice, port string) []netip.AddrPort {
	var ready, serving []netip.AddrPort
	for _, slice := range slices {
		for _, p := range slice.Ports {
			name := ""
			if p.Name != nil {
				name = *p.Name
			}
			if name != port || p.Port == nil {
				continue
			}
			for _, e := range slice.Endpoints {
				a, err := netip.ParseAddr(e.Addresses[0])
				if err != nil {
					continue
				}
				to := netip.AddrPortFrom(a, uint16(*p.Port))
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					ready = append(ready, to)
				} else if isTrue(e.Conditions.Serving) && isTrue(e.Conditions.Terminating) {
					serving = append(serving, to)
				}
			}
		}
	}
	if len(ready) == 0 {
		return serving
	}
	return ready
}

// balancerAddress gives a Service of type LoadBalancer its address and writes it to its status.
func (s *services) balancerAddress(name types.NamespacedName, o *v1.Service) (netip.Addr, bool) {
	if !wantsBalancer(o) {
		if s.freeBalancer(name) && o.Spec.Type != v1.ServiceTypeLoadBalancer {
			s.writeIngress(o, nil)
		}
		return netip.Addr{}, false
	}
	a, ok := s.given[name]
	if !ok {
		wanted, _ := netip.ParseAddr(o.Spec.LoadBalancerIP) //nolint:staticcheck // deprecated, yet in use
		var err error
		if a, err = s.pool.Take(wanted); err != nil {
			logf("load balancer for %s: %v", name, err)
			return netip.Addr{}, false
		}
		s.given[name] = a
	}
	if in := o.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != a.String() {
		mode := v1.LoadBalancerIPModeVIP
		s.writeIngress(o, []v1.LoadBalancerIngress{{IP: a.String(), IPMode: &mode}})
	}
	return a, true
}

func (s *services) freeBalancer(name types.NamespacedName) bool {
	a, ok := s.given[name]
	if ok {
		s.pool.Free(a)
		delete(s.given, name)
	}
	return ok
}

func (s *services) writeIngress(o *v1.Service, ingress []v1.LoadBalancerIngress) {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.UID}, "status": map[string]any{"loadBalancer": map[string]any{"ingress": ingress}}})
	if err != nil {
		logf("encode the address of %s/%s: %v", o.Namespace, o.Name, err)
		return
	}
	_, err = s.agent.client.CoreV1().Services(o.Namespace).Patch(context.Background(), o.Name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil && !errors.IsNotFound(err) && !errors.IsConflict(err) {
		logf("address of %s/%s: %v", o.Namespace, o.Name, err)
		time.AfterFunc(200*time.Millisecond, func() { s.touch(types.NamespacedName{Namespace: o.Namespace, Name: o.Name}) })
	}
}

// forwarder accepts at one address while it has somewhere to go; without endpoints a connection is refused.
type forwarder struct {
	at       netip.AddrPort
	to       atomic.Pointer[[]netip.AddrPort]
	listener net.Listener
	failed   error
}

func newForwarder(at netip.AddrPort) *forwarder { return &forwarder{at: at} }

// set changes the targets; calls come one after the other.
func (f *forwarder) set(to []netip.AddrPort) {
	f.to.Store(&to)
	f.failed = nil
	if len(to) == 0 {
		if f.listener != nil {
			_ = f.listener.Close()
			f.listener = nil
		}
		return
	}
	if f.listener != nil {
		return
	}
	if f.listener, f.failed = net.Listen("tcp", f.at.String()); f.failed != nil {
		f.listener = nil
		return
	}
	go f.accept(f.listener)
}

func (f *forwarder) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go f.carry(c.(*net.TCPConn))
	}
}

// carry connects to a random endpoint and tries the others when it refuses. The client keeps its address where that
// can be bound here; the client of a process pod cannot, since answers to it would not pass by.
func (f *forwarder) carry(in *net.TCPConn) {
	defer func() { _ = in.Close() }()
	targets := *f.to.Load()
	from, _ := netip.ParseAddrPort(in.RemoteAddr().String())
	for _, i := range rand.Perm(len(targets)) {
		d := net.Dialer{Timeout: 5 * time.Second}
		if addr.IsLocal(from.Addr()) {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Addr(), 0))
		}
		c, err := d.Dial("tcp", net.JoinHostPort(targets[i].Addr().String(), strconv.Itoa(int(targets[i].Port()))))
		if err != nil {
			continue
		}
		join(in, c.(*net.TCPConn))
		return
	}
	_ = in.SetLinger(0)
}

// join carries bytes and half-closes both ways; a reset on one side becomes a reset on the other.
func join(a, b *net.TCPConn) {
	defer func() { _ = b.Close() }()
	done := make(chan struct{}, 2)
	pipe := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			_ = to.SetLinger(0)
			_ = from.SetLinger(0)
			_ = to.Close()
			_ = from.Close()
		} else {
			_ = to.CloseWrite()
		}
		done <- struct{}{}
	}
	go pipe(a, b)
	go pipe(b, a)
	<-done
	<-done
}
