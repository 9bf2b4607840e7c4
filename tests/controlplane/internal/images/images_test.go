package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	table, err := Parse([]string{"tidegate:v2=" + program + ",user=7", "group/tidegate=" + program, "localhost:5000/x=" + program})
	if err != nil {
		t.Fatal(err)
	}
	for reference, want := range map[string]int{
		"tidegate:v2": 0, "ghcr.io/group/tidegate:v2": 0, "ghcr.io/group/tidegate:v1": 1, "ghcr.io/group/tidegate@sha256:ab": 1,
		"localhost:5000/x:1": 2, "tidegate": -1, "mytidegate:v2": -1, "other/tidegate:v1": -1, "": -1,
	} {
		got := -1
		if i, ok := table.Find(reference); ok {
			for n := range table {
				if table[n] == i {
					got = n
				}
			}
		}
		if got != want {
			t.Errorf("%q is entry %d, want %d", reference, got, want)
		}
	}
	if again, err := Parse([]string{table[0].String()}); err != nil || again[0] != table[0] {
		t.Errorf("%v reads back as %v, %v", table[0], again, err)
	}
}

func TestParseRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for entry, want := range map[string]string{"x": "is expected", "=y": "is expected", "x=": "is expected", "x=/no/such": "no such file", "x=" + dir: "no program", "x=" + text: "no program", "x=" + text + ",user=-1": "user"} {
		if table, err := Parse([]string{entry}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", entry, table, err)
		}
	}
}
