package main

import (
	"flag"

	"github.com/hispnode/hisp/store"
)

// queueIDs is what hisp queue takes.
const queueIDs = "ID is that of an item, or that of a message as the log and hisp send tell it: it\nmeans every item of the message."

// commands is the table of all commands, in the order of the help text.
func commands() []command {
	return []command{
		{"demo", "", "two complete nodes on this machine exchange a message", "Needs no configuration, no root and no other server.", needNothing, demoCommand},
		{"serve", "", "run the node", "It ends on SIGTERM after draining and reads the configuration again on SIGHUP.", needConfig, serveCommand},
		{"init", "", "write a configuration, a master key and an empty store",
			"It never overwrites anything. With -domain, -account and -trial the node is ready\nto be tried out when it ends.", needNothing, initCommand},

		{"domain add", "DOMAIN", "host a Health Internet Domain", "", needStore, domainAdd},
		{"domain remove", "DOMAIN", "stop hosting a domain that has no accounts left",
			"Its trust anchors go with it. Its keys stay until hisp key remove.", needStore, domainRemove},
		{"domain list", "", "list our domains", "", needStore, domainList},

		{"account add", "ADDRESS", "make an account", "The password is asked for, or read from standard input when that is no terminal.", needStore, accountAdd},
		{"account password", "ADDRESS", "set the password of an account", "The password is asked for, or read from standard input when that is no terminal.", needStore, accountPassword},
		{"account list", "[DOMAIN]", "list accounts", "", needStore, accountList},
		{"account set", "ADDRESS", "set quota or pass-through of an account", "", needStore, accountSet},
		{"account disable", "ADDRESS", "let nobody log in as ADDRESS; mail still arrives",
			"To have its mail refused, use account remove.", needStore,
			accountSwitch("account disable", func(a *store.AccountRecord) { a.Disabled = true })},
		{"account enable", "ADDRESS", "undo disable", "", needStore,
			accountSwitch("account enable", func(a *store.AccountRecord) { a.Disabled = false })},
		{"account cert add", "ADDRESS FILE", "let a TLS client certificate log in as ADDRESS", "", needStore, accountCertAdd},
		{"account cert remove", "ADDRESS FINGERPRINT", "forget a client certificate", "", needStore, accountCertRemove},
		{"account remove", "ADDRESS", "delete an account", "", needStore, accountRemove},

		{"key csr", "OWNER", "make a key and print the request for its certificate",
			"OWNER is a domain, for all its addresses, or one address. The key waits until\nhisp key install brings the certificate that your CA made.", needStore, keyCSR},
		{"key install", "FILE", "take in the certificate for a request", "FILE is PEM (with intermediates) or DER.", needStore, keyInstall},
		{"key import", "FILE", "take in a key with its certificate", "FILE is PKCS#12, or PEM with key, certificate and intermediates.", needStore, keyImport},
		{"key list", "[DOMAIN]", "list keys and when their certificates expire", "", needStore, keyList},
		{"key retire", "ID", "stop signing with a key and publishing it; it still decrypts", "", needStore, keyRetire},
		{"key remove", "ID", "delete a key that waits for a certificate, or destroy one", "", needStore, keyRemove},
		{"key ca", "FILE", "make a CA for trials",
			"FILE gets its key and certificate. Nobody but you trusts this CA: for real\nexchange use key csr with a CA that your partners have as anchor.", needNothing, keyCA},
		{"key trial", "OWNER", "make a key certified by a trial CA", "OWNER is a domain, for all its addresses, or one address.", needStore, keyTrial},

		{"anchor add", "DOMAIN FILE", "trust the CA certificates in FILE for one of our domains", "", needStore, anchorAdd},
		{"anchor remove", "DOMAIN FINGERPRINT", "stop trusting an anchor; the first digits are enough", "", needStore, anchorRemove},
		{"anchor list", "[DOMAIN]", "list trust anchors", "", needStore, anchorList},

		{"cert lookup", "ADDRESS", "look for the certificates of an address and say what was found where", "", needStore, certLookup},
		{"cert check", "ADDRESS", "look for them and say which we would encrypt to, and why not the others", "", needStore, certCheck},

		{"dns records", "DOMAIN", "print the records to publish for our domain, as zone-file lines", "", needStore, dnsRecords},
		{"dns check", "DOMAIN", "compare what DNS says about our domain with what it should", "", needStore, dnsCheck},

		{"send", "", "compose a message and hand it to the running node", "The text is read from standard input. The ID of the message is printed.", needNode, sendCommand},
		{"seal", "", "sign and encrypt a message as the node would; nothing is sent",
			"The RFC 5322 message is read from standard input and the sealed one printed.\nThe verdict is one line of JSON on standard error; exit code 1 when anyone was refused.", needStore, sealCommand},
		{"open", "", "decrypt and verify a message as the node would; nothing is delivered",
			"The sealed message is read from standard input and the inner one printed.\nThe verdict is one line of JSON on standard error; exit code 1 when anyone was refused.", needStore, openCommand},
		{"message track", "ID", "tell the life of a message, and what became of each recipient", "It names people; that is audited.", needStore, messageTrack},

		{"queue list", "", "list what waits", "", needStore, queueList},
		{"queue show", "ID", "show what waits of one item or message", queueIDs, needStore, queueShow},
		{"queue retry", "[ID]", "try again now", queueIDs, needStore, queueRetry},
		{"queue drop", "ID", "give an item or a message up and tell its sender", queueIDs, needNode, queueDrop},

		{"audit list", "", "show the audit trail", "", needStore, auditList},
		{"audit verify", "", "check that no audit entry was changed, removed or reordered", "", needStore, auditVerify},
		{"audit export", "", "print the audit trail as JSON lines, without names of people",
			"Every line can be verified without this node: hisp audit verify -file FILE.", needStore, auditExport},

		{"backup", "FOLDER", "copy the store into an empty folder, while the node runs", "", needStore, backupCommand},
		{"restore", "FOLDER", "make the data folder from a backup", "The node must not run and the data folder must be empty or missing.", needConfig, restoreCommand},
		{"verify", "", "check every record, message and counter of the store", "", needStore, verifyCommand},
		{"version", "", "print the version", "", needNothing, versionCommand},
		{"help", "[COMMAND]", "print what a command does", "", needNothing, func(*flag.FlagSet) func(*call) error { return nil }},
	}
}
