package cms

import (
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"time"
)

// Error is what this package returns. Errors are constants: compare them with
// errors.Is. Their texts name no address, no key and no content.
type Error string

// The errors of this package. ErrCipher and ErrNoRecipient are also
// ErrDecrypt; they are told apart by public fields only, never by a secret.
const (
	ErrMalformed   Error = "cms: not well-formed"
	ErrTooComplex  Error = "cms: a limit on size, depth or number of elements is exceeded"
	ErrNoSigner    Error = "cms: no signer"
	ErrContent     Error = "cms: content must be present exactly once, detached or embedded"
	ErrCertificate Error = "cms: signer certificate is not in the message"
	ErrDigest      Error = "cms: digest algorithm is not SHA-256, SHA-384 or SHA-512"
	ErrAlgorithm   Error = "cms: signature algorithm is refused or does not fit the digest or key"
	ErrWeakKey     Error = "cms: key is weaker than RSA 2048 or not of a supported type"
	ErrAttributes  Error = "cms: signed attributes are missing, repeated or contradictory"
	ErrAltered     Error = "cms: content differs from what was signed"
	ErrSignature   Error = "cms: signature does not verify"
	ErrRecipient   Error = "cms: no recipient, or a recipient key that cannot be used"
	ErrDecrypt     Error = "cms: cannot decrypt"
	ErrCipher      Error = "cms: content encryption algorithm is refused"
	ErrNoRecipient Error = "cms: not encrypted to any of the keys"
	ErrSign        Error = "cms: cannot sign"
)

// Error returns the text.
func (e Error) Error() string { return string(e) }

// Is makes ErrCipher and ErrNoRecipient match ErrDecrypt.
func (e Error) Is(target error) bool {
	return e == target || target == ErrDecrypt && (e == ErrCipher || e == ErrNoRecipient)
}

// Signer is one signing key with its certificates.
type Signer struct {
	Chain []*x509.Certificate // leaf first; all are included in the SignedData
	Key   crypto.Signer       // RSA or ECDSA key of the leaf; may live in an HSM
}

// SignOptions tune Sign.
type SignOptions struct {
	Digest crypto.Hash // crypto.SHA256 (the meaning of 0), SHA384 or SHA512
	Time   time.Time   // signingTime attribute; required
}

// SignedData is a parsed SignedData (RFC 5652 §5). Certificates may be
// appended before Verify when the message carries none. No field is trusted.
type SignedData struct {
	Certificates []*x509.Certificate // as in the message; unparsable ones are left out
	Content      []byte              // nil when detached; may share memory with the input
	Signers      []SignerInfo

	dataType bool // eContentType is id-data
}

// Verified is the result for one SignerInfo.
type Verified struct {
	Cert        *x509.Certificate // whose key made the signature; nil when it is not in the message
	Digest      crypto.Hash       // 0 when refused
	SigningTime time.Time         // what the signer claims, UTC; zero when absent or unreadable
	Err         error             // nil when the signature is good; one of the Err constants
}

// KeyTransport is how the content key is encrypted to an RSA recipient.
type KeyTransport string

// Key transport algorithms. RSAPKCS1v15 is the meaning of "". The OAEP
// variants use the same hash for the label and for MGF1 (RFC 3560, RFC 8017 §7.1).
const (
	RSAPKCS1v15   KeyTransport = "rsa-pkcs1v15"
	RSAOAEPSHA1   KeyTransport = "rsa-oaep-sha1"
	RSAOAEPSHA256 KeyTransport = "rsa-oaep-sha256"
	RSAOAEPSHA384 KeyTransport = "rsa-oaep-sha384"
	RSAOAEPSHA512 KeyTransport = "rsa-oaep-sha512"
)

// Cipher is a content encryption algorithm that Encrypt emits.
type Cipher string

// Content ciphers (RFC 3565). AES256CBC is the meaning of "".
const (
	AES256CBC Cipher = "aes-256-cbc"
	AES128CBC Cipher = "aes-128-cbc"
)

// Recipient is one certificate to encrypt to, RSA of 2048 to 8192 bits.
type Recipient struct {
	Cert         *x509.Certificate
	KeyTransport KeyTransport
}

// Key is one private key to try in Decrypt, with the certificate by which
// messages name it. One of Decrypter (RSA) and Exchanger (ECDH) is set; a nil
// one makes the key unusable for that way of key management.
type Key struct {
	Cert      *x509.Certificate
	Decrypter crypto.Decrypter
	Exchanger ecdh.KeyExchanger
}
