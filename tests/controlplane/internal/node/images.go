package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// image is a local program that stands for a container image.
type image struct {
	name, tag, path string
	user            int64
}

type imageTable []image

// parseImages reads NAME[:TAG]=PATH[,user=UID] entries.
func parseImages(entries []string) (imageTable, error) {
	var table imageTable
	for _, e := range entries {
		name, rest, ok := strings.Cut(e, "=")
		path, user, hasUser := strings.Cut(rest, ",user=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--image %q: NAME[:TAG]=PATH[,user=UID] is expected", e)
		}
		i := image{path: path}
		i.name, i.tag = splitTag(name)
		if hasUser {
			uid, err := strconv.ParseUint(user, 10, 31)
			if err != nil {
				return nil, fmt.Errorf("--image %q: user: %w", e, err)
			}
			i.user = int64(uid)
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
		i.path = absolute
		table = append(table, i)
	}
	return table, nil
}

// splitTag cuts a tag and a digest off a reference. A colon before the last slash belongs to the registry's port.
func splitTag(reference string) (name, tag string) {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i], reference[i+1:]
	}
	return reference, ""
}

// find returns the program for an image. A name matches the whole repository or its last elements; an entry without a
// tag matches every tag and digest.
func (t imageTable) find(reference string) (image, bool) {
	name, tag := splitTag(reference)
	for _, i := range t {
		if (name == i.name || strings.HasSuffix(name, "/"+i.name)) && (i.tag == "" || i.tag == tag) {
			return i, true
		}
	}
	return image{}, false
}
