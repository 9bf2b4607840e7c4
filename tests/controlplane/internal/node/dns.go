package node

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// clusterDomain is the domain below which Services have names.
const clusterDomain = "cluster.local"

// serveDNS answers the questions of process pods for the names of Services at this address, over UDP. It knows nothing else.
func (s *services) serveDNS(at netip.Addr) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 53)))
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	go func() {
		defer conn.Close()
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				logf("DNS: %v", err)
				return
			}
			if answer := s.answerDNS(buffer[:n]); answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	return nil
}

// answerDNS is the answer to a query; nil if it is none.
func (s *services) answerDNS(query []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	addresses, known := s.lookUp(question.Name.String())
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{question},
	}
	if !known {
		answer.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addresses {
		resource := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class, TTL: 1}}
		switch {
		case question.Type == dnsmessage.TypeA && a.Is4():
			resource.Body = &dnsmessage.AResource{A: a.As4()}
		case question.Type == dnsmessage.TypeAAAA && a.Is6():
			resource.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		answer.Answers = append(answer.Answers, resource)
	}
	packed, err := answer.Pack()
	if err != nil {
		logf("DNS: answer for %s: %v", question.Name, err)
		return nil
	}
	return packed
}

// lookUp finds the addresses of NAME.NAMESPACE.svc.cluster.local: those of the Service, or of its endpoints if it has none.
func (s *services) lookUp(name string) (addresses []netip.Addr, known bool) {
	labelsOf, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), ".svc."+clusterDomain)
	service, namespace, isService := strings.Cut(labelsOf, ".")
	if !ok || !isService {
		return nil, false
	}
	o, err := s.services.Services(namespace).Get(service)
	if err != nil {
		return nil, false
	}
	for _, text := range o.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, a)
		}
	}
	if o.Spec.ClusterIP != v1.ClusterIPNone {
		return addresses, true
	}
	slices, err := s.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil {
		return nil, true
	}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			if isReady := endpoint.Conditions.Ready; isReady != nil && !*isReady && !o.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range endpoint.Addresses {
				if a, err := netip.ParseAddr(text); err == nil {
					addresses = append(addresses, a)
				}
			}
		}
	}
	return addresses, true
}
