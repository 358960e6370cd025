// Package postfix runs a Postfix as a child of a test, with folders, ports and
// a configuration of its own. It needs root, as Postfix does.
package postfix

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hispnode/hisp/test/need"
	"github.com/hispnode/hisp/test/testca"
	"github.com/hispnode/hisp/test/testnet"
)

// Postfix is a running one.
type Postfix struct {
	Addr  string // host:port, SMTP with STARTTLS
	Mail  string // folder of the virtual mailboxes
	Queue string // folder of its queues
	Log   string // file
}

// Start runs a Postfix until the test ends. Its TLS certificate is that of
// files. settings are lines of main.cf behind those that all tests share; mail
// for virtual mailboxes is delivered below Mail.
func Start(t testing.TB, files testca.Files, settings string) Postfix {
	t.Helper()
	program := need.Tool(t, "postfix")
	if os.Getuid() != 0 {
		t.Skip("Postfix starts as root only")
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Skipf("no user postfix: %v", err)
	}
	dir := folders(t, owner)
	port := testnet.FreePort(t)
	main := fmt.Sprintf(mainText, dir, daemons(t), files.Chain, files.Key, files.Root, owner.Uid, owner.Gid) + settings
	for name, text := range map[string]string{"main.cf": main, "master.cf": fmt.Sprintf(masterText, port)} {
		if err := os.WriteFile(filepath.Join(dir, "conf", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := Postfix{Addr: fmt.Sprintf("127.0.0.1:%d", port), Mail: filepath.Join(dir, "mail"),
		Queue: filepath.Join(dir, "queue"), Log: filepath.Join(dir, "log")}
	p.run(t, program, filepath.Join(dir, "conf"))
	return p
}

// folders makes the folders of a Postfix below one that every user may enter,
// which t.TempDir is not.
func folders(t testing.TB, owner *user.User) string {
	dir, err := os.MkdirTemp("/tmp", "hisp-postfix-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var uid, gid int
	fmt.Sscan(owner.Uid, &uid)
	fmt.Sscan(owner.Gid, &gid)
	for name, ofRoot := range map[string]bool{"": true, "conf": true, "queue": true, "data": false, "mail": false} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if ofRoot {
			continue
		}
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (p Postfix) run(t testing.TB, program, conf string) {
	cmd := exec.Command(program, "-c", conf, "start-fg")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // its own group: master stops its daemons
		_ = cmd.Wait()
		if log, err := os.ReadFile(p.Log); err == nil && t.Failed() {
			t.Logf("Postfix said:\n%s", log[max(0, len(log)-maxLog):])
		}
	})
	testnet.Eventually(t, startTimeout, "Postfix listens", func() bool {
		c, err := net.Dial("tcp", p.Addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

const (
	maxLog       = 8 << 10 // octets of the log that a failed test shows
	startTimeout = 20 * time.Second
)

func daemons(t testing.TB) string {
	for _, d := range []string{"/usr/lib/postfix/sbin", "/usr/libexec/postfix"} {
		if _, err := os.Stat(d); err == nil {
			return d
		}
	}
	t.Skip("the daemons of Postfix were not found")
	return ""
}

var mainText = strings.TrimLeft(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = %[2]s
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/log
maillog_file_prefixes = %[1]s
myhostname = mx.clinic.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_tls_security_level = may
smtpd_tls_chain_files = %[4]s, %[3]s
smtp_tls_CAfile = %[5]s
virtual_mailbox_base = %[1]s/mail
virtual_uid_maps = static:%[6]s
virtual_gid_maps = static:%[7]s
`, "\n")

const masterText = `127.0.0.1:%d inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`
