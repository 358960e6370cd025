package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hispnode/hisp/dnscert"
	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
)

// zoneSource is a dnscert.Source that does not change.
type zoneSource []dnscert.Zone

func (z zoneSource) Zones(context.Context) ([]dnscert.Zone, error) { return z, nil }

// dnsZone is a zone with an address-bound, a domain-bound and a 4096-bit
// certificate and with local parts that need escapes.
func dnsZone(t *testing.T, name hisp.Domain) dnscert.Zone {
	t.Helper()
	ca := testca.NewRoot("DNS interop CA")
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	cert := func(local string, spec testca.Spec) dnscert.Published {
		owner := hisp.Address{Local: local, Domain: name}
		spec.Name = local + " of " + string(name)
		return dnscert.Published{Owner: owner, Cert: ca.Issue(spec).Cert}
	}
	small := testca.Spec{KeyKind: testca.P256}
	return dnscert.Zone{
		Name: name, NS: []string{"ns1." + string(name)},
		Mail: []hisp.MX{{Host: "mx." + string(name), Pref: 10}},
		Hosts: []dnscert.Host{
			{Name: "ns1." + string(name), Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
			{Name: "mx." + string(name), Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}},
		},
		Services: []dnscert.Service{{Name: "_ldap._tcp." + string(name), Port: 389, Target: "mx." + string(name)}},
		Certs: []dnscert.Published{
			cert("", small), cert("amy", small), cert("first.last", small), cert("o'neil", small), cert("$dollar", small),
			cert(`blank and "@;()\`, small), cert("é", small), cert("Large", testca.Spec{Key: key}), cert("large", testca.Spec{Key: key}),
		},
	}
}

func runServer(t *testing.T, zones ...dnscert.Zone) netip.AddrPort {
	t.Helper()
	s, err := dnscert.NewServer(t.Context(), dnscert.ServerConfig{Addr: "127.0.0.1:0", Source: zoneSource(zones), Rate: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s.Addr()
}

// dig asks server and returns the lines of +short, or the whole output.
func dig(t *testing.T, server netip.AddrPort, args ...string) string {
	t.Helper()
	args = append([]string{"@" + server.Addr().String(), "-p", fmt.Sprint(server.Port()), "+time=10", "+tries=1", "+nosplit"}, args...)
	out, err := exec.Command(need.Tool(t, "dig"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("dig %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// digCerts are the certificates in the output of dig +short.
func digCerts(t *testing.T, out string) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[0] != "PKIX" {
			t.Fatalf("dig prints %q, want PKIX, key tag, algorithm, data", line)
		}
		der, err := base64.StdEncoding.DecodeString(strings.Join(fields[3:], ""))
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	return certs
}

// TestDig: dig reads our CERT records over UDP and TCP (DISC-01, DISC-07,
// DISC-13).
func TestDig(t *testing.T) {
	need.Tool(t, "dig")
	zone := dnsZone(t, "hospital.example")
	server := runServer(t, zone)
	for _, transport := range []string{"+notcp", "+tcp"} {
		for name, want := range map[string][]int{"amy.hospital.example": {1}, "hospital.example": {0}, "FIRST.last.hospital.example": {2},
			`blank\032and\032\"\@\;\(\)\\.hospital.example`: {5}, "large.hospital.example": {7, 8}} {
			got := digCerts(t, dig(t, server, "+short", transport, name, "CERT"))
			if len(got) != len(want) {
				t.Fatalf("%s %s: %d certificates, want %d", transport, name, len(got), len(want))
			}
			for _, i := range want {
				if !slices.ContainsFunc(got, zone.Certs[i].Cert.Equal) {
					t.Errorf("%s %s: certificate %d is missing", transport, name, i)
				}
			}
		}
	}
	tests := []struct {
		args []string
		want []string
	}{
		{[]string{"+notcp", "+ignore", "large.hospital.example", "CERT"}, []string{"NOERROR", " tc", "ANSWER: 0"}},
		{[]string{"+notcp", "+ignore", "+noedns", "amy.hospital.example", "CERT"}, []string{"NOERROR", " aa"}},
		{[]string{"bob.hospital.example", "CERT"}, []string{"NXDOMAIN", "ANSWER: 0", "SOA"}},
		{[]string{"last.hospital.example", "CERT"}, []string{"NOERROR", "ANSWER: 0", "SOA"}},
		{[]string{"hospital.example", "AXFR"}, []string{"Transfer failed"}},
		{[]string{"elsewhere.example", "A"}, []string{"REFUSED"}},
		{[]string{"version.bind", "TXT", "CH"}, []string{"REFUSED"}},
		{[]string{"_ldap._tcp.hospital.example", "SRV"}, []string{"389 mx.hospital.example.", "2001:db8::3"}},
		{[]string{"hospital.example", "ANY"}, []string{"HINFO", "RFC8482"}},
	}
	for _, tt := range tests {
		out := dig(t, server, tt.args...)
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("dig %v: no %q in\n%s", tt.args, want, out)
			}
		}
	}
}

// TestNamed: BIND loads the lines of Records; our resolver finds through it
// what they hold, and through BIND as a recursive server what our own server
// publishes.
func TestNamed(t *testing.T) {
	named := need.Tool(t, "named")
	checkzone := need.Tool(t, "named-checkzone")
	lines, ours := dnsZone(t, "lines.example"), dnsZone(t, "ours.example")
	dir := t.TempDir()
	records, err := dnscert.Records(lines, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "lines.example.zone")
	if err := os.WriteFile(file, []byte(strings.Join(records, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(checkzone, "-i", "full", "lines.example", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "OK") {
		t.Fatalf("named-checkzone: %v\n%s", err, out)
	}
	server := startNamed(t, named, dir, runServer(t, ours))
	r, err := dnscert.NewResolver(dnscert.ResolverConfig{Servers: []netip.AddrPort{server}, Timeout: 10 * time.Second, Total: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, zone := range []dnscert.Zone{lines, ours} {
		for i, pub := range zone.Certs {
			certs, err := r.LookupCerts(t.Context(), pub.Owner)
			if err != nil || !slices.ContainsFunc(certs, func(c hisp.Cert) bool { return c.Equal(pub.Cert) }) {
				t.Errorf("%s certificate %d: %d others found, %v", zone.Name, i, len(certs), err)
			}
		}
		certs, err := r.LookupCerts(t.Context(), hisp.Address{Local: "bob", Domain: zone.Name})
		if err != nil || len(certs) != 1 || certs[0].Source != "dns-domain" {
			t.Errorf("%s: unknown address: %d certificates, %v, want the domain's", zone.Name, len(certs), err)
		}
		if mx, err := r.LookupMX(t.Context(), zone.Name); err != nil || len(mx) != 1 || mx[0].Host != "mx."+string(zone.Name) {
			t.Errorf("%s: LookupMX = %v, %v", zone.Name, mx, err)
		}
		if addrs, err := r.LookupAddrs(t.Context(), "mx."+string(zone.Name)); err != nil || len(addrs) != 2 {
			t.Errorf("%s: LookupAddrs = %v, %v, want two", zone.Name, addrs, err)
		}
		for _, f := range dnscert.Check(t.Context(), r, zone) {
			if !f.OK {
				t.Errorf("Check: %s %s: got %q, want %q: %s", f.Name, f.Type, f.Got, f.Want, f.Hint)
			}
		}
	}
}

// startNamed runs named on a free loopback port with its own directory: it
// serves lines.example from the file and forwards ours.example to our server.
func startNamed(t *testing.T, named, dir string, ours netip.AddrPort) netip.AddrPort {
	t.Helper()
	addr := freePort(t)
	conf := fmt.Sprintf(`
options {
	directory %[1]q; pid-file none; session-keyfile none; lock-file none;
	listen-on port %[2]d { 127.0.0.1; }; listen-on-v6 { none; };
	recursion yes; allow-query { 127.0.0.1; }; allow-transfer { none; };
	dnssec-validation no; empty-zones-enable no; notify no; forwarders { };
};
controls { };
zone "lines.example" { type primary; file "lines.example.zone"; };
zone "ours.example" { type forward; forward only; forwarders { %[3]s port %[4]d; }; };
`, dir, addr.Port(), ours.Addr(), ours.Port())
	file := filepath.Join(dir, "named.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(named, "-g", "-n", "1", "-c", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("named:\n%s", log.String())
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if conn, err := net.Dial("tcp", addr.String()); err == nil {
			_ = conn.Close()
			return addr
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("named ended: %v\n%s", err, log.String())
		case <-tick.C:
			if time.Now().After(deadline) {
				t.Fatal("named does not listen after 30 s")
			}
		}
	}
}

// freePort is a loopback port that was free on TCP and UDP a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	addr := tcp.Addr().(*net.TCPAddr).AddrPort()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	return addr
}
