// Package images maps the names of container images to local programs.
package images

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Image is a local program that stands for a container image.
type Image struct {
	// Name is the repository or its last elements; Tag is empty for all tags.
	Name, Tag string
	// Path of the program, absolute.
	Path string
	// User is what the image runs as unless a security context says otherwise.
	User int64
}

// Table is searched from its beginning.
type Table []Image

// Parse reads NAME[:TAG]=PATH[,user=UID] entries; it fails when a path is not that of a program.
func Parse(entries []string) (Table, error) {
	var table Table
	for _, e := range entries {
		name, rest, ok := strings.Cut(e, "=")
		path, user, hasUser := strings.Cut(rest, ",user=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--image %q: NAME[:TAG]=PATH[,user=UID] is expected", e)
		}
		i := Image{}
		i.Name, i.Tag = SplitTag(name)
		if hasUser {
			uid, err := strconv.ParseUint(user, 10, 31)
			if err != nil {
				return nil, fmt.Errorf("--image %q: user: %w", e, err)
			}
			i.User = int64(uid)
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(absolute); err != nil {
			return nil, fmt.Errorf("--image %q: %w", e, err)
		} else if info.IsDir() || info.Mode()&0o111 == 0 {
			return nil, fmt.Errorf("--image %q: %s is no program", e, absolute)
		}
		i.Path = absolute
		table = append(table, i)
	}
	return table, nil
}

// SplitTag cuts a tag and a digest off a reference. A colon before the last slash belongs to the registry's port.
func SplitTag(reference string) (name, tag string) {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i], reference[i+1:]
	}
	return reference, ""
}

// Find returns the program for an image. A name matches the whole repository or its last elements; an entry without a
// tag matches every tag and digest.
func (t Table) Find(reference string) (Image, bool) {
	name, tag := SplitTag(reference)
	for _, i := range t {
		if (name == i.Name || strings.HasSuffix(name, "/"+i.Name)) && (i.Tag == "" || i.Tag == tag) {
			return i, true
		}
	}
	return Image{}, false
}

// String is the entry as Parse reads it.
func (i Image) String() string {
	name := i.Name
	if i.Tag != "" {
		name += ":" + i.Tag
	}
	return fmt.Sprintf("%s=%s,user=%d", name, i.Path, i.User)
}
