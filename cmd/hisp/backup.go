package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/hispnode/hisp/store"
	"github.com/hispnode/hisp/store/bolt"
)

func backupCommand(*flag.FlagSet) func(c *call) error {
	return func(c *call) error {
		if err := c.argN("FOLDER"); err != nil {
			return err
		}
		dir := c.path(c.args[0])
		if data := c.config.resolve(c.config.Data); within(data, dir) {
			return hint(fmt.Errorf("%s is inside the data folder", dir), "a backup is to outlive the data folder: give it a folder elsewhere, best on another disk")
		}
		err := c.audited("backup", "", hisp.Address{}, func() error { return c.store.Backup(c.ctx, dir) })
		if err != nil && hisp.KindOf(err) == hisp.Conflict {
			return hint(fmt.Errorf("%s is not empty", dir), "give each backup a folder of its own")
		}
		if err != nil {
			return err
		}
		c.printf("%s\n", dir)
		c.notef("the master key is not in it: keep a copy of it elsewhere; hisp restore makes a data folder from a backup\n")
		return nil
	}
}

// within tells whether path, which need not exist, is folder or inside it, by
// whatever name or symbolic link.
func within(folder, path string) bool {
	want, err := os.Stat(folder)
	if err != nil {
		return false
	}
	for path = filepath.Clean(path); ; path = filepath.Dir(path) {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if info, err := os.Stat(path); err == nil && os.SameFile(info, want) {
			return true
		}
		if path == filepath.Dir(path) {
			return false
		}
	}
}

func restoreCommand(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print the report of the check as JSON")
	return func(c *call) error {
		if err := c.argN("FOLDER"); err != nil {
			return err
		}
		key, err := readMasterKey(c.config.resolve(c.config.MasterKeyFile))
		if err != nil {
			return err
		}
		data := c.config.resolve(c.config.Data)
		report, err := bolt.Restore(c.ctx, c.path(c.args[0]), bolt.Options{Dir: data, MasterKey: key})
		switch {
		case err == nil:
			return errors.Join(c.printReport(report, *asJSON), c.recordRestore(len(report.Findings)))
		case hisp.KindOf(err) == hisp.Conflict:
			return hint(fmt.Errorf("%s is not empty", data), "stop the node and move its data folder away first; nothing is overwritten")
		case hisp.KindOf(err) == hisp.Malformed:
			return fmt.Errorf("%s: %w", c.args[0], err)
		}
		return storeError(c.config, err)
	}
}

// recordRestore is the first entry of a restored trail, which otherwise ends in
// the middle of its backup. There was none to write into before.
func (c *call) recordRestore(findings int) error {
	b, err := openBackend(c.config, quietLog(), time.Now)
	if err != nil {
		return fmt.Errorf("restored, but that is not in the audit trail: %w", err)
	}
	rec := b.adminRecord("restore", hisp.OutcomeOK)
	if findings > 0 {
		rec.Outcome, rec.Kind = hisp.OutcomeFailed, hisp.Malformed.Error()
	}
	if err = b.store.Record(context.WithoutCancel(c.ctx), rec); err != nil {
		err = fmt.Errorf("restored, but that is not in the audit trail: %w", err)
	}
	return errors.Join(err, b.Close())
}

func verifyCommand(f *flag.FlagSet) func(c *call) error {
	asJSON := f.Bool("json", false, "print JSON")
	return func(c *call) error {
		if err := c.argN(); err != nil {
			return err
		}
		report, err := c.store.Verify(c.ctx)
		if err != nil {
			return err
		}
		return c.printReport(report, *asJSON)
	}
}

// printReport prints what a check of the store found.
func (c *call) printReport(report store.Report, asJSON bool) error {
	if asJSON {
		if err := c.json(report); err != nil {
			return err
		}
	} else {
		for _, finding := range report.Findings {
			c.printf("%s: %s\n", finding.Area, finding.Text)
		}
	}
	if len(report.Findings) > 0 {
		return hint(fmt.Errorf("the store is damaged: %d findings", len(report.Findings)), "stop the node, keep the data folder as it is and restore a backup into a new one")
	}
	if !asJSON {
		c.printf("ok\n")
	}
	return nil
}
