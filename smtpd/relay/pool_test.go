package relay

import (
	"bufio"
	"net"
	"testing"
)

// As many connections are kept for one destination as the node uses at a time,
// so that a burst does not begin with handshakes.
func TestPool_burst(t *testing.T) {
	var p pool
	p.init(Limits{}.withDefaults())
	k := poolKey{host: "mx.clinic.example"}
	for range 4 {
		conn, peer := net.Pipe()
		t.Cleanup(func() { peer.Close() })
		p.put(k, &client{conn: conn, r: bufio.NewReader(conn)})
	}
	for i := range 4 {
		c := p.get(k)
		if c == nil {
			t.Fatalf("%d connections were kept, want 4", i)
		}
		c.conn.Close()
	}
}
