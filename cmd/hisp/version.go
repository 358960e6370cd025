package main

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the module version of the build, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, dirty := info.Main.Version, ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && (v == "" || v == "(devel)"):
			v = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+modified"
		}
	}
	if v == "" {
		v = "(devel)"
	}
	if len(v) > len(dirty) && v[len(v)-len(dirty):] == dirty {
		return v
	}
	return v + dirty
}

func versionCommand(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		if *asJSON {
			return c.json(map[string]string{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
		}
		fmt.Fprintf(c.stdout, "hisp %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
}
