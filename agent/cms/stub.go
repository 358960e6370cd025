package cms

// SignerInfo is one signature of a SignedData (RFC 5652 §5.3), not yet judged.
type SignerInfo struct{}

// Sign returns a detached SignedData over content.
func Sign(content []byte, signers []Signer, opts SignOptions) ([]byte, error) { return nil, ErrSign }

// ParseSignedData reads a ContentInfo with SignedData.
func ParseSignedData(ber []byte) (*SignedData, error) { return nil, ErrMalformed }

// Verify judges each SignerInfo on its own.
func (s *SignedData) Verify(content []byte) ([]Verified, error) { return nil, ErrNoSigner }

// Encrypt returns an EnvelopedData.
func Encrypt(content []byte, to []Recipient, c Cipher) ([]byte, error) { return nil, ErrRecipient }

// Decrypt returns the content of an EnvelopedData or AuthEnvelopedData.
func Decrypt(ber []byte, keys []Key) ([]byte, error) { return nil, ErrDecrypt }
