// Package node is scheduler, kubelet, kube-proxy and load balancer of a test cluster in one process. Its pods are of two
// kinds: fake pods, which this process answers for, and process pods, whose containers are local programs in network
// namespaces of their own. It talks to the API server only, and learns everything by watching it.
package node

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"tidegate.dev/controlplane/internal/addr"
	"tidegate.dev/controlplane/internal/images"
	"tidegate.dev/controlplane/internal/supervisor"
)

// kubeletPort is where each node serves the logs of its pods.
const kubeletPort = 10250

// agent is the whole fake node process.
type agent struct {
	config *supervisor.Config
	client kubernetes.Interface
	images images.Table
	nodes  corelisters.NodeLister
	// forks runs functions on the main thread: children carry a death signal that fires when the forking thread ends.
	forks chan func()

	mu           sync.Mutex
	pods         map[types.UID]*pod
	binding      map[types.UID]bool
	fakeIPs      *addr.Pool
	processIPs   *addr.Pool
	bridge       netlink.Link
	services     *services
	veths        int
	podsOfOwner  map[ownerOnNode]int
	podsOfNode   map[string]int
	wherePlaced  map[types.UID]ownerOnNode
	waitingToFit map[types.UID]*v1.Pod
}

type ownerOnNode struct {
	owner types.UID
	node  string
}

// Main runs the node part until its process is killed. It must be called on the locked main thread.
func Main(c *supervisor.Config) error {
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	var more stringList
	flags.Var(&more, "image", "NAME[:TAG]=PATH[,user=UID]: containers of this image run the local program")
	if err := flags.Parse(strings.Fields(c.Extra["node"])); err != nil {
		return err
	}
	table, err := images.Parse(append(append([]string{}, c.Images...), more...))
	if err != nil {
		return err
	}
	rest, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	rest.QPS = -1
	rest.ContentType = "application/vnd.kubernetes.protobuf"
	rest.UserAgent = "tidegate-fake-node"
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	a := &agent{
		config: c, client: client, images: table, forks: make(chan func()),
		pods: map[types.UID]*pod{}, binding: map[types.UID]bool{},
		fakeIPs: addr.NewPool(c.Plan.Pods()), processIPs: addr.NewPool(c.Plan.ProcessPods()),
		podsOfOwner: map[ownerOnNode]int{}, podsOfNode: map[string]int{}, wherePlaced: map[types.UID]ownerOnNode{},
		waitingToFit: map[types.UID]*v1.Pod{},
	}
	// A killed predecessor leaves the files of its pods and its bridge behind.
	if err := os.RemoveAll(a.podsDir()); err != nil {
		return err
	}
	if link, err := netlink.LinkByName(c.Plan.BridgeName()); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove the old bridge: %w", err)
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- a.start() }()
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
		case f := <-a.forks:
			f()
		}
	}
}

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, " ") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

func (a *agent) podsDir() string { return filepath.Join(a.config.Dir, "pods") }

// onMain runs f on the main thread and waits for it.
func (a *agent) onMain(f func()) {
	done := make(chan struct{})
	a.forks <- func() { f(); close(done) }
	<-done
}

// start registers the nodes, watches, and tells the supervisor when all is set up.
func (a *agent) start() error {
	ctx := context.Background()
	if err := a.serveKubelet(); err != nil {
		return err
	}
	for i := range a.config.Nodes {
		if err := a.register(ctx, i); err != nil {
			return fmt.Errorf("register node-%d: %w", i, err)
		}
	}
	factory := informers.NewSharedInformerFactory(a.client, 0)
	a.nodes = factory.Core().V1().Nodes().Lister()
	nodeInformer := factory.Core().V1().Nodes().Informer()
	pods := factory.Core().V1().Pods().Informer()
	services := newServices(a, factory)
	a.services = services
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nodeInformer.HasSynced) {
		return fmt.Errorf("the list of nodes did not arrive")
	}
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.sawPod(o.(*v1.Pod)) },
		UpdateFunc: func(_, o any) { a.sawPod(o.(*v1.Pod)) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*v1.Pod); ok {
				a.podGone(p)
			}
		},
	}); err != nil {
		return err
	}
	factory.WaitForCacheSync(ctx.Done())
	if err := services.start(); err != nil {
		return err
	}
	go a.retryPlacement()
	ready := os.NewFile(3, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	return ready.Close()
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

func (a *agent) nodeIP(name string) (netip.Addr, bool) {
	for i := range a.config.Nodes {
		if nodeName(i) == name {
			return a.config.Plan.NodeIP(i), true
		}
	}
	return netip.Addr{}, false
}

// register makes the Node ready. Zones go a, b, c by turns.
func (a *agent) register(ctx context.Context, i int) error {
	name := nodeName(i)
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": runtime.GOARCH,
		"topology.kubernetes.io/zone": string(rune('a' + i%3)), "topology.kubernetes.io/region": "local",
	}}}
	got, err := a.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		got, err = a.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	// Admission taints new nodes as not ready, and the controller that would remove the taint does not run here.
	if len(got.Spec.Taints) > 0 {
		got.Spec.Taints = nil
		if got, err = a.client.CoreV1().Nodes().Update(ctx, got, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	resources := v1.ResourceList{"cpu": quantity("64"), "memory": quantity("256Gi"), "pods": quantity("4000"), "ephemeral-storage": quantity("1Ti")}
	now := metav1.Now()
	condition := func(kind v1.NodeConditionType, status v1.ConditionStatus, reason string) v1.NodeCondition {
		return v1.NodeCondition{Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	got.Status = v1.NodeStatus{
		Capacity: resources, Allocatable: resources,
		Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: a.config.Plan.NodeIP(i).String()},
			{Type: v1.NodeHostName, Address: name},
		},
		Conditions: []v1.NodeCondition{
			condition(v1.NodeReady, v1.ConditionTrue, "KubeletReady"),
			condition(v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"),
			condition(v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"),
			condition(v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"),
		},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: kubeletPort}},
		NodeInfo: v1.NodeSystemInfo{
			KubeletVersion: kubeletVersion(), ContainerRuntimeVersion: "fake://1", OSImage: "tidegate test node",
			OperatingSystem: "linux", Architecture: runtime.GOARCH,
		},
	}
	_, err = a.client.CoreV1().Nodes().UpdateStatus(ctx, got, metav1.UpdateOptions{})
	return err
}

// sawPod is called for each new and changed pod, in order.
func (a *agent) sawPod(p *v1.Pod) {
	if p.Spec.NodeName == "" {
		a.place(p)
		return
	}
	nodeIP, ours := a.nodeIP(p.Spec.NodeName)
	if !ours {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waitingToFit, p.UID)
	a.count(p, p.Spec.NodeName)
	known := a.pods[p.UID]
	if known == nil {
		known = newPod(a, p, nodeIP)
		a.pods[p.UID] = known
		go known.run()
		return
	}
	known.update(p)
}

func (a *agent) podGone(p *v1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.binding, p.UID)
	delete(a.waitingToFit, p.UID)
	if at, ok := a.wherePlaced[p.UID]; ok {
		a.podsOfOwner[at]--
		if a.podsOfOwner[at] <= 0 {
			delete(a.podsOfOwner, at)
		}
		a.podsOfNode[at.node]--
		delete(a.wherePlaced, p.UID)
	}
	if known := a.pods[p.UID]; known != nil {
		close(known.gone)
		delete(a.pods, p.UID)
	}
}

// findPod returns the pod with this name that runs here, the one that is not being deleted if there are two.
func (a *agent) findPod(namespace, name string) *pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *pod
	for _, p := range a.pods {
		o := p.object()
		if o.Namespace == namespace && o.Name == name && (found == nil || o.DeletionTimestamp == nil) {
			found = p
		}
	}
	return found
}

func (a *agent) retryPlacement() {
	for {
		time.Sleep(200 * time.Millisecond)
		a.mu.Lock()
		var again []*v1.Pod
		for _, p := range a.waitingToFit {
			again = append(again, p)
		}
		a.mu.Unlock()
		for _, p := range again {
			a.place(p)
		}
	}
}

func logf(format string, args ...any) { klog.Infof(format, args...) }
