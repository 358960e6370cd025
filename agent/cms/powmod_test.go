package cms

import (
	"crypto/rsa"
	"math/big"
)

func powMod(em []byte, pub *rsa.PublicKey) []byte {
	c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(int64(pub.E)), pub.N)
	return c.FillBytes(make([]byte, pub.Size()))
}
