package dnscert

import (
	"context"
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/hispnode/hisp/hisp"
)

// Source knows what the node publishes. The Server asks at start, then every
// ServerConfig.Refresh and on Reload, and keeps serving what it has when
// Zones fails. The server owns what Zones returned.
type Source interface {
	Zones(ctx context.Context) ([]Zone, error)
}

// Zone is one domain with everything we publish in it. All names are inside
// Name, except that NS, Mail and Service targets may be anywhere.
type Zone struct {
	Name     hisp.Domain
	NS       []string      // host names of the name servers, the first is the primary; none means Name itself
	Contact  string        // mail address of who runs the zone, shown in the SOA; "" means hostmaster@Name
	TTL      time.Duration // of every record; 0 means 1 hour
	Mail     []hisp.MX
	Hosts    []Host
	Services []Service
	Certs    []Published
	// Elsewhere says that name servers of others publish the zone: it has no
	// SOA and no NS of ours. For Records and Check; Server serves no such zone.
	Elsewhere bool
}

// Host is a name with its addresses; Name may be the zone itself.
type Host struct {
	Name  string
	Addrs []netip.Addr
}

// Service is one SRV record (RFC 2782), such as _ldap._tcp.
type Service struct {
	Name     string // whole owner name, "_ldap._tcp.example.org"
	Priority uint16
	Weight   uint16
	Port     uint16
	Target   string
}

// Published is a certificate with the address it is published for; an empty
// Local publishes it for the domain (row DISC-01). Certificates whose key
// usage forbids keyEncipherment are not published (row DISC-14).
type Published struct {
	Owner hisp.Address
	Cert  *x509.Certificate
}
