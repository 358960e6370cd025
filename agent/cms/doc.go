// Package cms reads and writes the Cryptographic Message Syntax as Direct
// messages use it: SignedData (RFC 5652 §5), EnvelopedData (§6) and
// AuthEnvelopedData with AES-GCM (RFC 5083, 5084, read only).
//
// Every message is first brought from BER to DER by a bounded, iterative
// normaliser; nothing of a stranger reaches a parser before that. Signatures
// are RSA PKCS#1 v1.5, RSA-PSS, ECDSA on P-256, P-384 and P-521 (RFC 5753) and
// Ed25519 (RFC 8419) over SHA-256, SHA-384 or SHA-512, always with signed
// attributes. Content keys come by RSA PKCS#1 v1.5 or RSAES-OAEP (RFC 3560,
// 8017), or by ECDH with AES key wrap (RFC 5753, 3394; read only). Content is
// AES-CBC or, read only, AES-GCM. SignedData is made through
// go.mozilla.org/pkcs7.
//
// The package does not decide trust: it builds no chain, looks at no validity
// period, key usage, name or revocation. It does not know MIME. It never emits
// nor accepts SHA-1 or MD5 signatures, DSA, RSA keys below 2048 bits, DES,
// Triple-DES, RC2 or Camellia.
package cms
