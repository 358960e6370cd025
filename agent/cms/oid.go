package cms

import "crypto"

// oid is the content octets of a DER OBJECT IDENTIFIER, so that identifiers
// are constants and compare with ==.
type oid string

// Content types, RFC 5652 §4-6 and RFC 5083 §2.1.
const (
	oidData              oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
	oidSignedData        oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
	oidEnvelopedData     oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"
	oidAuthEnvelopedData oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17"
)

// Attributes, RFC 5652 §11 and RFC 6211 §2.
const (
	oidContentType         oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03"
	oidMessageDigest       oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x04"
	oidSigningTime         oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x05"
	oidAlgorithmProtection oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x34"
)

// Digests, RFC 5754 §2. SHA-1 is only for reading OAEP parameters and the
// X9.63 key derivation.
const (
	oidSHA1   oid = "\x2b\x0e\x03\x02\x1a"
	oidSHA224 oid = "\x60\x86\x48\x01\x65\x03\x04\x02\x04"
	oidSHA256 oid = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	oidSHA384 oid = "\x60\x86\x48\x01\x65\x03\x04\x02\x02"
	oidSHA512 oid = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"
)

// Signatures, RFC 5754 §3, RFC 4055 §5, RFC 8419 §2.
const (
	oidRSA         oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01" // also key transport, RFC 3370 §4.2.1
	oidRSASHA256   oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
	oidRSASHA384   oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c"
	oidRSASHA512   oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d"
	oidRSAPSS      oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidECDSASHA256 oid = "\x2a\x86\x48\xce\x3d\x04\x03\x02"
	oidECDSASHA384 oid = "\x2a\x86\x48\xce\x3d\x04\x03\x03"
	oidECDSASHA512 oid = "\x2a\x86\x48\xce\x3d\x04\x03\x04"
	oidEd25519     oid = "\x2b\x65\x70"
)

// Key management, RFC 4055 §2.2 and §4, RFC 5753 §7.1.4, RFC 3565 §2.3.2.
const (
	oidOAEP       oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"
	oidMGF1       oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
	oidPSpecified oid = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x09"

	oidDHStdSHA1   oid = "\x2b\x81\x05\x10\x86\x48\x3f\x00\x02"
	oidDHStdSHA224 oid = "\x2b\x81\x04\x01\x0b\x00"
	oidDHStdSHA256 oid = "\x2b\x81\x04\x01\x0b\x01"
	oidDHStdSHA384 oid = "\x2b\x81\x04\x01\x0b\x02"
	oidDHStdSHA512 oid = "\x2b\x81\x04\x01\x0b\x03"
	// The curves we know have cofactor 1: cofactor and standard DH are the same.
	oidDHCofactorSHA1   oid = "\x2b\x81\x05\x10\x86\x48\x3f\x00\x03"
	oidDHCofactorSHA224 oid = "\x2b\x81\x04\x01\x0e\x00"
	oidDHCofactorSHA256 oid = "\x2b\x81\x04\x01\x0e\x01"
	oidDHCofactorSHA384 oid = "\x2b\x81\x04\x01\x0e\x02"
	oidDHCofactorSHA512 oid = "\x2b\x81\x04\x01\x0e\x03"

	oidAES128Wrap oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x05"
	oidAES192Wrap oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x19"
	oidAES256Wrap oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x2d"
)

// Content encryption, RFC 3565 §4.1 and RFC 5084 §3.2.
const (
	oidAES128CBC oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x02"
	oidAES192CBC oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x16"
	oidAES256CBC oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a"
	oidAES128GCM oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x06"
	oidAES192GCM oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x1a"
	oidAES256GCM oid = "\x60\x86\x48\x01\x65\x03\x04\x01\x2e"
)

// signatureDigest maps the digests we accept for signatures; 0 is refused
// (conformance rows SM-09, SM-10).
func signatureDigest(o oid) crypto.Hash {
	switch o {
	case oidSHA256:
		return crypto.SHA256
	case oidSHA384:
		return crypto.SHA384
	case oidSHA512:
		return crypto.SHA512
	}
	return 0
}

// transportDigest maps the digests we accept inside RSAES-OAEP parameters,
// where SHA-1 is still sound (row SM-13); 0 is refused.
func transportDigest(o oid) crypto.Hash {
	switch o {
	case oidSHA1:
		return crypto.SHA1
	case oidSHA224:
		return crypto.SHA224
	}
	return signatureDigest(o)
}

// derivationDigest maps a key agreement algorithm to the digest of its X9.63
// key derivation; 0 is refused.
func derivationDigest(o oid) crypto.Hash {
	switch o {
	case oidDHStdSHA1, oidDHCofactorSHA1:
		return crypto.SHA1
	case oidDHStdSHA224, oidDHCofactorSHA224:
		return crypto.SHA224
	case oidDHStdSHA256, oidDHCofactorSHA256:
		return crypto.SHA256
	case oidDHStdSHA384, oidDHCofactorSHA384:
		return crypto.SHA384
	case oidDHStdSHA512, oidDHCofactorSHA512:
		return crypto.SHA512
	}
	return 0
}

// wrapKeyLen is the key length in octets of an AES key wrap algorithm; 0 is refused.
func wrapKeyLen(o oid) int {
	switch o {
	case oidAES128Wrap:
		return 16
	case oidAES192Wrap:
		return 24
	case oidAES256Wrap:
		return 32
	}
	return 0
}

// cbcKeyLen ties the key length in octets to the AES-CBC identifier; 0 is refused.
func cbcKeyLen(o oid) int {
	switch o {
	case oidAES128CBC:
		return 16
	case oidAES192CBC:
		return 24
	case oidAES256CBC:
		return 32
	}
	return 0
}

// gcmKeyLen ties the key length in octets to the AES-GCM identifier; 0 is refused.
func gcmKeyLen(o oid) int {
	switch o {
	case oidAES128GCM:
		return 16
	case oidAES192GCM:
		return 24
	case oidAES256GCM:
		return 32
	}
	return 0
}
