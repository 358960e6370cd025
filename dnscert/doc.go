// Package dnscert finds and publishes certificates in DNS. The Resolver asks
// for CERT RRs (type 37, RFC 4398), mail exchangers and addresses (RFC 1035,
// RFC 5321 §5.1, RFC 7505); the Server is authoritative (RFC 1034 §4.3.2) for
// the domains of the node; Records and Check serve an operator who lets
// another name server do that.
//
// It decides nothing about the certificates it finds: validity, binding,
// trust and revocation are the agent's. It does not validate DNSSEC, because
// trust comes from anchors (row DISC-15); it never fetches what IPKIX or URI
// records point to; it does no recursion for others, no zone transfer and no
// dynamic update.
package dnscert
