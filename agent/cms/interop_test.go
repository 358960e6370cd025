package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInterop_opensslSigned(t *testing.T) {
	pairs := []pair{rsaPair(), bigPair(), p256Pair(), p384Pair(), p521Pair()}
	o := openssl(t, append(pairs, otherPair())...)
	for _, n := range []int{200, 100_000} {
		content := text(n)
		o.write("content", content)
		for _, p := range pairs {
			for _, line := range []string{
				"", "-md sha384", "-md sha512", "-keyid", "-stream", "-nodetach", "-nodetach -stream",
				"-nodetach -keyid -stream", "-cades", "-nosmimecap", "-certfile ca.pem",
				"-keyopt rsa_padding_mode:pss", "-keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:20 -nodetach",
				"-keyopt rsa_padding_mode:pss -md sha512 -keyid", "-keyopt rsa_padding_mode:pss -keyopt rsa_pss_saltlen:0",
			} {
				if strings.Contains(line, "pss") && (p.name[0] == 'p') {
					continue
				}
				t.Run(fmt.Sprintf("%s %d %s", p.name, n, line), func(t *testing.T) {
					o := o
					o.t = t
					m := o.cms("-sign -binary -in content -outform DER -signer " + p.name + ".pem -inkey " + p.name + ".key " + md(line))
					got := verifyAll(t, m, content)
					if len(got) != 1 || got[0].Cert == nil || !got[0].Cert.Equal(p.cert) || got[0].SigningTime.IsZero() {
						t.Errorf("Verify = %+v", got)
					}
				})
			}
		}
	}
}

// An RSA key whose certificate allows it for PSS only (RFC 4055 §3.1).
func TestInterop_opensslPSSOnlyKey(t *testing.T) {
	o := openssl(t)
	if _, err := o.try("req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes",
		"-subj", "/CN=pss", "-keyout", "pss.key", "-out", "pss.pem"); err != nil {
		t.Fatal(err)
	}
	o.write("content", text(100))
	verifyAll(t, o.cms("-sign -binary -in content -outform DER -md sha256 -signer pss.pem -inkey pss.key -keyopt rsa_padding_mode:pss"), text(100))
}

// md adds the digest OpenSSL would choose otherwise by key, if none is given.
func md(line string) string {
	if strings.Contains(line, "-md") {
		return line
	}
	return line + " -md sha256"
}

func TestInterop_opensslSignedRefused(t *testing.T) {
	o := openssl(t, rsaPair(), weakPair())
	content := text(100)
	o.write("content", content)
	tests := []struct {
		name, line string
		want       error
	}{
		{"SHA-1", "-signer rsa.pem -inkey rsa.key -md sha1", ErrDigest},
		{"MD5", "-signer rsa.pem -inkey rsa.key -md md5", ErrDigest},
		{"SHA-224", "-signer rsa.pem -inkey rsa.key -md sha224", ErrDigest},
		{"SHA-1 PSS", "-signer rsa.pem -inkey rsa.key -md sha1 -keyopt rsa_padding_mode:pss", ErrDigest},
		{"PSS with SHA-1 for MGF1", "-signer rsa.pem -inkey rsa.key -md sha256 -keyopt rsa_padding_mode:pss -keyopt rsa_mgf1_md:sha1", ErrAlgorithm},
		{"RSA 1024", "-signer weak.pem -inkey weak.key -md sha256", ErrWeakKey},
		{"no attributes", "-signer rsa.pem -inkey rsa.key -md sha256 -noattr", ErrAttributes},
		{"no certificate", "-signer rsa.pem -inkey rsa.key -md sha256 -nocerts", ErrCertificate},
		{"content type", "-signer rsa.pem -inkey rsa.key -md sha256 -econtent_type 1.2.3.4", ErrAttributes},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o.t = t
			s := must(ParseSignedData(o.cms("-sign -binary -in content -outform DER " + tt.line)))
			got, err := s.Verify(content)
			if err != nil || got[0].Err != tt.want {
				t.Errorf("Verify = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestInterop_opensslSeveralSigners(t *testing.T) {
	o := openssl(t, rsaPair(), p256Pair(), p384Pair())
	content := text(10_000)
	o.write("content", content)
	m := o.cms("-sign -binary -in content -outform DER -md sha256 -signer rsa.pem -inkey rsa.key -keyopt rsa_padding_mode:pss" +
		" -signer p256.pem -inkey p256.key -signer p384.pem -inkey p384.key -nodetach")
	if got := verifyAll(t, m, content); len(got) != 3 {
		t.Errorf("signers = %d, want 3", len(got))
	}
}

func TestInterop_opensslVerifiesOurs(t *testing.T) {
	pairs := []pair{rsaPair(), bigPair(), p256Pair(), p384Pair(), p521Pair()}
	o := openssl(t, pairs...)
	content := text(10_000)
	o.write("content", content)
	check := func(t *testing.T, der []byte) {
		t.Helper()
		o.t = t
		o.write("signed", der)
		if got := o.cms("-verify -binary -inform DER -in signed -content content -CAfile ca.pem -purpose any"); !bytes.Equal(got, content) {
			t.Error("openssl returned other content")
		}
	}
	for _, p := range pairs {
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			t.Run(p.name+" "+h.String(), func(t *testing.T) {
				s := Signer{Chain: []*x509.Certificate{p.cert, p.ca}, Key: p.key}
				check(t, must(Sign(content, []Signer{s}, SignOptions{Digest: h, Time: testTime})))
			})
		}
	}
	t.Run("several signers", func(t *testing.T) {
		check(t, must(Sign(content, []Signer{rsaPair().signer(), p256Pair().signer(), bigPair().signer()},
			SignOptions{Time: testTime})))
	})
}

func TestInterop_opensslEncrypted(t *testing.T) {
	o := openssl(t, rsaPair(), otherPair(), bigPair(), p256Pair(), p384Pair(), p521Pair())
	const oaep = " -keyopt rsa_padding_mode:oaep"
	var tests [][2]string // options, the pair that decrypts
	for _, c := range []string{"-aes-128-cbc", "-aes-192-cbc", "-aes-256-cbc", "-aes-128-gcm", "-aes-192-gcm", "-aes-256-gcm"} {
		for _, s := range []string{"", " -stream"} {
			tests = append(tests, [2]string{c + s + " -recip rsa.pem", "rsa"})
			tests = append(tests, [2]string{c + s + " -recip p256.pem", "p256"})
		}
	}
	for _, hash := range []string{"sha1", "sha224", "sha256", "sha384", "sha512"} {
		tests = append(tests,
			[2]string{"-aes-256-cbc -recip rsa.pem" + oaep + " -keyopt rsa_oaep_md:" + hash, "rsa"},
			[2]string{"-aes-256-cbc -recip rsa.pem" + oaep + " -keyopt rsa_oaep_md:" + hash + " -keyopt rsa_mgf1_md:sha1", "rsa"},
			[2]string{"-aes-128-cbc -recip rsa.pem" + oaep + " -keyopt rsa_oaep_md:" + hash + " -keyopt rsa_mgf1_md:sha256", "rsa"},
			[2]string{"-aes-256-cbc -recip p384.pem -keyopt ecdh_kdf_md:" + hash, "p384"})
	}
	tests = append(tests,
		[2]string{"-aes-256-cbc -keyid -recip rsa.pem", "rsa"},
		[2]string{"-aes-256-cbc -keyid -recip p256.pem", "p256"},
		[2]string{"-aes-256-cbc -recip p521.pem", "p521"},
		[2]string{"-aes-256-cbc -recip p256.pem -keyopt ecdh_cofactor_mode:1", "p256"},
		[2]string{"-aes-256-cbc -recip other.pem -recip rsa.pem", "rsa"},
		[2]string{"-aes-256-cbc -keyid -recip other.pem -recip rsa.pem", "rsa"},
		[2]string{"-aes-256-cbc -recip p256.pem -recip rsa.pem -recip p384.pem", "rsa"},
		[2]string{"-aes-256-gcm -recip p256.pem -recip rsa.pem -recip p384.pem -stream", "p384"},
		[2]string{"-aes-256-cbc -recip rsa.pem -secretkey 000102030405060708090a0b0c0d0e0f -secretkeyid 01", "rsa"},
		[2]string{"-aes-256-cbc -recip rsa.pem -pwri_password secret", "rsa"},
	)
	byName := map[string]pair{"rsa": rsaPair(), "p256": p256Pair(), "p384": p384Pair(), "p521": p521Pair()}
	for _, n := range []int{200, 100_000} {
		content := text(n)
		o.write("content", content)
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%d %s", n, tt[0]), func(t *testing.T) {
				o := o
				o.t = t
				m := o.cms("-encrypt -binary -in content -outform DER " + tt[0])
				got, err := Decrypt(m, []Key{byName[tt[1]].decryption()})
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("Decrypt = %d octets, %v", len(got), err)
				}
				got, err = DecryptInPlace(m, []Key{byName[tt[1]].decryption()})
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("DecryptInPlace = %d octets, %v", len(got), err)
				}
			})
		}
	}
}

func TestInterop_opensslEncryptedRefused(t *testing.T) {
	o := openssl(t, rsaPair())
	o.write("content", text(1000))
	for _, c := range []string{"-des3", "-camellia256", "-aes-256-ofb"} {
		t.Run(c, func(t *testing.T) {
			o.t = t
			m := o.cms("-encrypt -binary -in content -outform DER " + c + " -recip rsa.pem")
			if got, err := Decrypt(m, []Key{rsaPair().decryption()}); err != ErrCipher || got != nil {
				t.Errorf("Decrypt = %d octets, %v; want ErrCipher (row SM-12)", len(got), err)
			}
		})
	}
}

func TestInterop_opensslDecryptsOurs(t *testing.T) {
	o := openssl(t, rsaPair(), bigPair())
	for _, n := range []int{0, 16, 70_000} {
		for _, k := range transports {
			for _, c := range []Cipher{AES128CBC, AES256CBC} {
				t.Run(fmt.Sprintf("%d %s %s", n, k, c), func(t *testing.T) {
					o.t = t
					der := must(Encrypt(text(n), []Recipient{rsaPair().recipient(k), bigPair().recipient("")}, c))
					o.write("sealed", der)
					for _, p := range []string{"rsa", "big"} {
						out := filepath.Join(o.dir, "out")
						o.cms("-decrypt -binary -inform DER -in sealed -out out -recip " + p + ".pem -inkey " + p + ".key")
						if got := must(os.ReadFile(out)); !bytes.Equal(got, text(n)) {
							t.Errorf("%s: openssl returned %d octets", p, len(got))
						}
					}
				})
			}
		}
	}
}
