package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"

	"github.com/hispnode/hisp/hisp"
	"software.sslmate.com/src/go-pkcs12"
)

// Bounds of an imported file.
const (
	maxFile  = 1 << 20 // octets
	maxCerts = 32
)

// PEM block types, RFC 7468 §5, §7, §10, §11 and, without a standard, those of
// PKCS#1 and SEC 1 as openssl writes them.
const (
	pemCertificate  = "CERTIFICATE"
	pemRequest      = "CERTIFICATE REQUEST"
	pemPKCS8        = "PRIVATE KEY"
	pemPKCS8Locked  = "ENCRYPTED PRIVATE KEY"
	pemPKCS1        = "RSA PRIVATE KEY"
	pemSEC1         = "EC PRIVATE KEY"
	pemSEC1Params   = "EC PARAMETERS"
	headerEncrypted = "DEK-Info" // RFC 1421 §4.6.1.3, the old openssl encryption
)

var errMismatch = errors.New("keystore: private key and certificate do not belong together")

// material is what a file holds: one private key, nil in a file of
// certificates, and certificates in any order.
type material struct {
	key   crypto.Signer
	certs []*x509.Certificate
}

// read takes a PEM bundle or a PKCS#12 file apart.
func read(op string, data []byte, password string) (material, error) {
	if len(data) > maxFile {
		return material{}, &hisp.Error{Op: op, Kind: hisp.TooLarge, Hint: "the file has more than 1 MiB"}
	}
	m, err := readAny(data, password)
	var known *hisp.Error
	if errors.As(err, &known) {
		known.Op = op
		return material{}, known
	}
	if err != nil {
		return material{}, &hisp.Error{Op: op, Kind: hisp.Malformed, Err: err,
			Hint: "the file is neither PEM nor PKCS#12, or it is damaged; give a .p12/.pfx file, or certificate and key as PEM"}
	}
	if len(m.certs) > maxCerts {
		return material{}, &hisp.Error{Op: op, Kind: hisp.TooLarge, Hint: "the file has more than 32 certificates"}
	}
	return m, nil
}

func readAny(data []byte, password string) (material, error) {
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return readPEM(data, password)
	}
	if cert, err := x509.ParseCertificate(data); err == nil {
		return material{certs: []*x509.Certificate{cert}}, nil
	}
	return readPKCS12(data, password)
}

func readPKCS12(data []byte, password string) (material, error) {
	key, cert, cas, err := pkcs12.DecodeChain(data, password)
	var unsupported pkcs12.NotImplementedError
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && password == "":
		return material{}, noPassword()
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return material{}, wrongPassword()
	case errors.As(err, &unsupported):
		return material{}, &hisp.Error{Kind: hisp.Malformed, Err: err,
			Hint: "the PKCS#12 file uses a form that is not supported; write it again with 'openssl pkcs12 -in FILE -nodes | openssl pkcs12 -export -out NEW'"}
	case err != nil:
		return material{}, err
	}
	signer, err := usableKey(key)
	if err != nil {
		return material{}, err
	}
	return material{key: signer, certs: append([]*x509.Certificate{cert}, cas...)}, nil
}

func readPEM(data []byte, password string) (material, error) {
	var m material
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == pemSEC1Params {
			continue
		}
		if block.Type == pemCertificate {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return material{}, &hisp.Error{Kind: hisp.Malformed, Hint: "a certificate in the file is not well formed", Err: err}
			}
			if m.certs = append(m.certs, cert); len(m.certs) > maxCerts {
				break
			}
			continue
		}
		key, err := readKeyBlock(block, password)
		if err != nil {
			return material{}, err
		}
		if m.key != nil {
			return material{}, &hisp.Error{Kind: hisp.Malformed, Hint: "the file has more than one private key; import them one by one"}
		}
		m.key = key
	}
	if m.key == nil && len(m.certs) == 0 {
		return material{}, errors.New("keystore: no PEM block")
	}
	return m, nil
}

func readKeyBlock(block *pem.Block, password string) (crypto.Signer, error) {
	if _, old := block.Headers[headerEncrypted]; old {
		return nil, &hisp.Error{Kind: hisp.Malformed,
			Hint: "the private key has the old openssl encryption, which is weak; convert it with 'openssl pkcs8 -topk8 -in OLD -out NEW'"}
	}
	var key any
	var err error
	switch block.Type {
	case pemPKCS8:
		return parsePKCS8(block.Bytes)
	case pemPKCS8Locked:
		der, err := decryptPKCS8(block.Bytes, password)
		if err != nil {
			return nil, err
		}
		if _, err := x509.ParsePKCS8PrivateKey(der); err != nil {
			return nil, wrongPassword() // the padding was right by chance
		}
		return parsePKCS8(der)
	case pemPKCS1:
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case pemSEC1:
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, &hisp.Error{Kind: hisp.Malformed,
			Hint: "the PEM file has a block that is neither a certificate nor a private key"}
	}
	if err != nil {
		return nil, badKey(err)
	}
	return usableKey(key)
}

func parsePKCS8(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, badKey(err)
	}
	return usableKey(key)
}

func badKey(err error) error {
	return &hisp.Error{Kind: hisp.Malformed, Hint: "the private key is not well formed", Err: err}
}

func usableKey(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, &hisp.Error{Kind: hisp.Malformed, Hint: "the private key is of a kind Direct does not use; it must be RSA or ECDSA"}
}

func noPassword() error {
	return &hisp.Error{Kind: hisp.Denied, Hint: "the file is encrypted; give its password"}
}

func wrongPassword() error {
	return &hisp.Error{Kind: hisp.Denied, Hint: "the password is wrong"}
}

// chainFor picks the certificate of the key among certs, the one valid
// longest, and its issuers in order without a self-signed root. Earlier
// certificates of the same key come last. It is nil if no certificate fits.
func chainFor(public crypto.PublicKey, certs []*x509.Certificate) []*x509.Certificate {
	var own []*x509.Certificate
	for _, cert := range certs {
		if equal, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && equal.Equal(public) {
			own = append(own, cert)
		}
	}
	if len(own) == 0 {
		return nil
	}
	slices.SortFunc(own, newestFirst)
	chain := own[:1:1]
	for len(chain) <= maxCerts {
		last := chain[len(chain)-1]
		i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return issued(c, last) && !slices.Contains(chain, c) })
		if i < 0 || bytes.Equal(certs[i].RawSubject, certs[i].RawIssuer) {
			break
		}
		chain = append(chain, certs[i])
	}
	return slices.CompactFunc(append(chain, own[1:]...), (*x509.Certificate).Equal)
}

func issued(ca, cert *x509.Certificate) bool {
	return ca.IsCA && bytes.Equal(ca.RawSubject, cert.RawIssuer) &&
		ca.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}
