// Command hisp is the node: one binary for the servers, the operator's tools
// and the demo.
//
// A command that works on the store runs inside the serving process when there
// is one, because the store belongs to one process: the command line sends its
// arguments over a socket in the data folder and shows what comes back (see
// control.go). Without a serving process it opens the store itself. The code of
// the command is the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Exit codes of the command line.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Where the configuration file is, unless -config says so.
const (
	configVariable = "HISP_CONFIG"
	configDefault  = "hisp.toml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], terminal{ctx, os.Stdin}, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// need says what a command works on.
type need uint8

const (
	needNothing need = iota // not even a configuration file
	needConfig              // the configuration file
	needStore               // the store, in the serving process if there is one
	needNode                // a serving process
)

// command is one row of the command table.
type command struct {
	name  string // "domain add"
	args  string // what follows the flags, for the usage text
	short string // one line
	long  string // what an operator wants to know, "" if short says it all
	need  need
	// new declares the flags and returns what to run after they are parsed.
	new func(f *flag.FlagSet) func(c *call) error
}

// usageError is a mistake in the arguments: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the whole command line: arguments in, exit code out.
func run(ctx context.Context, args []string, front front, stdout, stderr io.Writer) int {
	inv, err := parseInvocation(args, stdout)
	if err == nil && inv.cmd != nil {
		err = inv.dispatch(ctx, front, stdout, stderr)
	}
	return report(stderr, inv, err)
}

// invocation is a parsed command line.
type invocation struct {
	cmd    *command
	argv   []string // the command's name and arguments, as typed
	config string   // path of the configuration file
	run    func(c *call) error
	rest   []string // arguments that are no flags
}

// parseInvocation finds the command and parses its flags, which may stand
// before, between and behind the other arguments. A request for help is
// answered at once and leaves cmd nil.
func parseInvocation(args []string, stdout io.Writer) (invocation, error) {
	inv := invocation{config: configDefault}
	if v := os.Getenv(configVariable); v != "" {
		inv.config = v
	}
	global := flag.NewFlagSet("hisp", flag.ContinueOnError)
	global.SetOutput(io.Discard)
	global.StringVar(&inv.config, "config", inv.config, "")
	if err := global.Parse(args); err != nil {
		return inv, helpOr(err, func() { printCommands(stdout, "") })
	}
	inv.argv = global.Args()
	if len(inv.argv) == 0 {
		printCommands(stdout, "")
		return inv, usagef("no command")
	}
	if inv.argv[0] == "help" {
		return inv, printHelp(stdout, inv.argv[1:])
	}
	cmd, rest, err := findCommand(inv.argv)
	if err != nil {
		return inv, err
	}
	f := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&inv.config, "config", inv.config, "configuration `file`; "+configVariable+" names it too")
	inv.run = cmd.new(f)
	if inv.rest, err = parseFlags(f, rest); err != nil {
		return inv, helpOr(err, func() { printUsage(stdout, cmd, f) })
	}
	inv.cmd = cmd
	return inv, nil
}

func helpOr(err error, show func()) error {
	if errors.Is(err, flag.ErrHelp) {
		show()
		return nil
	}
	return usageError{err}
}

// parseFlags parses flags wherever they stand and returns the rest.
func parseFlags(f *flag.FlagSet, args []string) ([]string, error) {
	var rest []string
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if args = f.Args(); len(args) == 0 {
			return rest, nil
		}
		rest = append(rest, args[0])
		args = args[1:]
	}
}

// findCommand takes the longest name of the table that argv begins with.
func findCommand(argv []string) (*command, []string, error) {
	for words := min(3, len(argv)); words > 0; words-- {
		name := strings.Join(argv[:words], " ")
		for _, cmd := range commands() {
			if cmd.name == name {
				return &cmd, argv[words:], nil
			}
		}
	}
	group := groupOf(argv[0])
	if len(group) == 0 {
		return nil, nil, hint(usagef("unknown command %q", argv[0]), "hisp help lists the commands")
	}
	return nil, nil, hint(usagef("which of %s?", strings.Join(group, ", ")), "hisp help "+argv[0])
}

// groupOf returns the second words of the commands whose first is word.
func groupOf(word string) []string {
	var names []string
	for _, cmd := range commands() {
		if second, ok := strings.CutPrefix(cmd.name, word+" "); ok {
			names = append(names, second)
		}
	}
	return names
}

// printHelp answers "hisp help [COMMAND]".
func printHelp(w io.Writer, argv []string) error {
	if len(argv) == 0 {
		printCommands(w, "")
		return nil
	}
	cmd, _, err := findCommand(argv)
	if err != nil {
		if len(groupOf(argv[0])) == 0 {
			return err
		}
		printCommands(w, argv[0])
		return nil
	}
	f := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	f.String("config", "", "configuration `file`; "+configVariable+" names it too")
	cmd.new(f)
	printUsage(w, cmd, f)
	return nil
}

func printCommands(w io.Writer, group string) {
	fmt.Fprintln(w, "hisp is a Direct secure-messaging node.\n\nUsage: hisp [-config FILE] COMMAND [ARGUMENTS]\n\nCommands:")
	for _, cmd := range commands() {
		if group == "" || strings.HasPrefix(cmd.name, group+" ") {
			fmt.Fprintf(w, "  %-20s %s\n", cmd.name, cmd.short)
		}
	}
	fmt.Fprintf(w, "\nhisp help COMMAND tells more. The configuration file is %s, or what %s names.\n", configDefault, configVariable)
}

func printUsage(w io.Writer, cmd *command, f *flag.FlagSet) {
	line := "hisp " + cmd.name
	flags := 0
	f.VisitAll(func(*flag.Flag) { flags++ })
	if flags > 1 {
		line += " [flags]"
	}
	fmt.Fprintf(w, "Usage: %s\n\n%s\n", strings.TrimRight(line+" "+cmd.args, " "), capital(cmd.short)+".")
	if cmd.long != "" {
		fmt.Fprintf(w, "\n%s\n", cmd.long)
	}
	fmt.Fprintln(w, "\nFlags:")
	f.SetOutput(w)
	f.PrintDefaults()
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// dispatch runs a parsed command where it belongs.
func (inv invocation) dispatch(ctx context.Context, front front, stdout, stderr io.Writer) error {
	c := &call{ctx: ctx, args: inv.rest, front: front, stdout: stdout, stderr: stderr, configPath: inv.config}
	if dir, err := os.Getwd(); err == nil {
		c.dir = dir
	}
	if inv.cmd.need == needNothing {
		return inv.run(c)
	}
	var err error
	if c.config, err = loadConfig(inv.config); err != nil {
		return err
	}
	if inv.cmd.need == needConfig {
		return inv.run(c)
	}
	switch code, err := askNode(ctx, c, inv.argv); {
	case err == nil:
		return exitCode(code)
	case !errors.Is(err, errNoNode):
		return err
	case inv.cmd.need == needNode:
		return hint(errNoNode, "start it with hisp serve")
	}
	b, err := openBackend(c.config, quietLog(), time.Now)
	if err != nil {
		return err
	}
	c.backend = b
	return errors.Join(inv.run(c), b.Close())
}

// exitCode is the code of a command that ran elsewhere and has told its error
// there already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// report prints err and returns the exit code.
func report(stderr io.Writer, inv invocation, err error) int {
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	where := "hisp: "
	if len(inv.argv) > 0 {
		if slices.ContainsFunc(commands(), func(c command) bool { return strings.SplitN(c.name, " ", 2)[0] == inv.argv[0] }) {
			where += inv.argv[0] + ": "
		}
	}
	fmt.Fprintf(stderr, "%s%s\n", where, strings.ReplaceAll(errorText(err), "\n", "; "))
	if h := hintOf(err); h != "" {
		fmt.Fprintf(stderr, "hisp: hint: %s\n", h)
	}
	var usage usageError
	if errors.As(err, &usage) {
		if inv.cmd != nil && hintOf(err) == "" {
			fmt.Fprintf(stderr, "hisp: hint: hisp help %s\n", inv.cmd.name)
		}
		return exitUsage
	}
	return exitFailed
}
