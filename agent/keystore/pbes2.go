package keystore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509/pkix"
	"encoding/asn1"
	"hash"

	"github.com/hispnode/hisp/hisp"
)

// maxIterations bounds the work a file can ask for; openssl writes 2048.
const maxIterations = 10_000_000

// Object identifiers of RFC 8018 appendix A and B and of NIST.
var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

type encryptedPrivateKeyInfo struct { // RFC 5958 §3
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct { // RFC 8018 appendix A.4
	Derivation pkix.AlgorithmIdentifier
	Scheme     pkix.AlgorithmIdentifier
}

type pbkdf2Params struct { // RFC 8018 appendix A.2
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// blockScheme is an encryption scheme of RFC 8018 appendix B.2 in CBC mode.
type blockScheme struct {
	id      asn1.ObjectIdentifier
	keySize int // octets
	open    func(key []byte) (cipher.Block, error)
}

func blockSchemes() []blockScheme {
	return []blockScheme{
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.NewCipher},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.NewCipher},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.NewTripleDESCipher},
	}
}

// pseudoRandom returns the hash of an HMAC, RFC 8018 appendix B.1; without
// identifier it is SHA-1.
func pseudoRandom(id asn1.ObjectIdentifier) func() hash.Hash {
	switch id.String() {
	case "", "1.2.840.113549.2.7":
		return sha1.New
	case "1.2.840.113549.2.9":
		return sha256.New
	case "1.2.840.113549.2.10":
		return sha512.New384
	case "1.2.840.113549.2.11":
		return sha512.New
	}
	return nil
}

// decryptPKCS8 opens an EncryptedPrivateKeyInfo with PBES2.
func decryptPKCS8(der []byte, password string) ([]byte, error) {
	var info encryptedPrivateKeyInfo
	var params pbes2Params
	var kdf pbkdf2Params
	if !unmarshal(der, &info) {
		return nil, badKey(nil)
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) || !unmarshal(info.Algorithm.Parameters.FullBytes, &params) ||
		!params.Derivation.Algorithm.Equal(oidPBKDF2) || !unmarshal(params.Derivation.Parameters.FullBytes, &kdf) {
		return nil, unsupportedEncryption()
	}
	prf := pseudoRandom(kdf.PRF.Algorithm)
	var iv []byte
	if prf == nil || kdf.Iterations < 1 || kdf.Iterations > maxIterations || !unmarshal(params.Scheme.Parameters.FullBytes, &iv) {
		return nil, unsupportedEncryption()
	}
	for _, scheme := range blockSchemes() {
		if scheme.id.Equal(params.Scheme.Algorithm) {
			if password == "" {
				return nil, noPassword()
			}
			key, err := pbkdf2.Key(prf, password, kdf.Salt, kdf.Iterations, scheme.keySize)
			if err != nil {
				return nil, badKey(err)
			}
			return decryptCBC(scheme, key, iv, info.Data)
		}
	}
	return nil, unsupportedEncryption()
}

func decryptCBC(scheme blockScheme, key, iv, data []byte) ([]byte, error) {
	block, err := scheme.open(key)
	if err != nil {
		return nil, badKey(err)
	}
	size := block.BlockSize()
	if len(iv) != size || len(data) == 0 || len(data)%size != 0 {
		return nil, badKey(nil)
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > size {
		return nil, wrongPassword()
	}
	for _, b := range plain[len(plain)-pad:] {
		if subtle.ConstantTimeByteEq(b, byte(pad)) != 1 {
			return nil, wrongPassword()
		}
	}
	return plain[:len(plain)-pad], nil
}

func unsupportedEncryption() error {
	return &hisp.Error{Kind: hisp.Malformed,
		Hint: "the private key is encrypted in a way that is not supported; convert it with 'openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW'"}
}

func unmarshal(der []byte, into any) bool {
	rest, err := asn1.Unmarshal(der, into)
	return err == nil && len(rest) == 0
}
