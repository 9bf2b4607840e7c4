package node

import (
	"context"
	"encoding/json"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/version"
	schedulingv1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

func kubeletVersion() string { return version.Get().GitVersion }

// place binds a pod to the node that has the fewest pods of the same owner, then the fewest pods.
func (a *agent) place(p *v1.Pod) {
	if p.DeletionTimestamp != nil || len(p.Spec.SchedulingGates) > 0 || (p.Spec.SchedulerName != "" && p.Spec.SchedulerName != v1.DefaultSchedulerName) {
		return
	}
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	a.mu.Lock()
	if a.binding[p.UID] {
		a.mu.Unlock()
		return
	}
	var best *v1.Node
	var bestOwned, bestAll int
	affinity := nodeaffinity.GetRequiredNodeAffinity(p)
	for _, n := range nodes {
		if _, ours := a.nodeIP(n.Name); !ours || !tolerates(p, n) {
			continue
		}
		if ok, err := affinity.Match(n); err != nil || !ok {
			continue
		}
		owned, all := a.podsOfOwner[ownerOnNode{ownerOf(p), n.Name}], a.podsOfNode[n.Name]
		if best == nil || owned < bestOwned || owned == bestOwned && (all < bestAll || all == bestAll && n.Name < best.Name) {
			best, bestOwned, bestAll = n, owned, all
		}
	}
	if best == nil {
		_, told := a.waitingToFit[p.UID]
		a.waitingToFit[p.UID] = p
		a.mu.Unlock()
		if !told {
			go a.sayUnschedulable(p)
		}
		return
	}
	delete(a.waitingToFit, p.UID)
	a.binding[p.UID] = true
	a.count(p, best.Name)
	a.mu.Unlock()
	go a.bind(p, best.Name)
}

// count remembers where a pod is; the caller holds the lock.
func (a *agent) count(p *v1.Pod, node string) {
	if _, known := a.wherePlaced[p.UID]; known {
		return
	}
	at := ownerOnNode{ownerOf(p), node}
	a.wherePlaced[p.UID] = at
	a.podsOfOwner[at]++
	a.podsOfNode[node]++
}

func ownerOf(p *v1.Pod) types.UID {
	if owner := metav1.GetControllerOf(p); owner != nil {
		return owner.UID
	}
	return ""
}

func tolerates(p *v1.Pod, n *v1.Node) bool {
	taints := n.Spec.Taints
	if n.Spec.Unschedulable {
		taints = append(append([]v1.Taint{}, taints...), v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
	}
	keepsOut := func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	}
	_, refused := schedulingv1.FindMatchingUntoleratedTaint(klog.Background(), taints, p.Spec.Tolerations, keepsOut, false)
	return !refused
}

func (a *agent) bind(p *v1.Pod, node string) {
	binding := &v1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID}, Target: v1.ObjectReference{Kind: "Node", Name: node}}
	for {
		err := a.client.CoreV1().Pods(p.Namespace).Bind(context.Background(), binding, metav1.CreateOptions{})
		if err == nil || errors.IsNotFound(err) || errors.IsConflict(err) {
			return
		}
		logf("bind %s/%s: %v", p.Namespace, p.Name, err)
		time.Sleep(100 * time.Millisecond)
		a.mu.Lock()
		wanted := a.binding[p.UID]
		a.mu.Unlock()
		if !wanted {
			return // deleted meanwhile
		}
	}
}

func (a *agent) sayUnschedulable(p *v1.Pod) {
	now := metav1.Now()
	a.patchStatus(p, v1.PodStatus{Phase: v1.PodPending, Conditions: []v1.PodCondition{{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable,
		Message: "no node matches the selectors, affinities and taints", LastTransitionTime: now,
	}}})
}

// patchStatus merges conditions by type, so that what others have written (readiness gates) stays. It says whether the
// status needs no further try: it is written, the pod is gone, or the API server will never take it.
func (a *agent) patchStatus(p *v1.Pod, status v1.PodStatus) bool {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err == nil {
		_, err = a.client.CoreV1().Pods(p.Namespace).Patch(context.Background(), p.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	}
	if err == nil || errors.IsNotFound(err) || errors.IsConflict(err) {
		return true
	}
	logf("status of %s/%s: %v", p.Namespace, p.Name, err)
	return errors.IsInvalid(err)
}
