package skiff_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the module's own name, which its import paths begin with.
const module = "skiff"

// row says what the packages in a folder may be made of.
type row struct {
	imports []string // Folders of this module whose packages it may import; everything, if it holds "*".
	// kubernetes says that the package comment must tell what the package is in Kubernetes. It is the bridge for those who
	// know the one and read the other, and it says openly what is left out.
	kubernetes bool
}

// layout is the arrows of ARCHITECTURE.md as a table. A folder below one of these is part of it, unless it has a row of its own.
var layout = map[string]row{
	"agent":             {imports: []string{"reconcile", "api", "agent/cgroup"}, kubernetes: true},
	"agent/cgroup":      {kubernetes: true},
	"agent/containerd":  {imports: []string{"agent", "agent/cgroup"}, kubernetes: true},
	"agent/network":     {kubernetes: true},
	"agent/runtimetest": {imports: []string{"agent"}},
	"api":               {kubernetes: true},
	"apiserver":         {imports: []string{"api", "store"}, kubernetes: true},
	"cmd":               {imports: []string{"*"}},
	"control":           {kubernetes: true},
	"controller":        {imports: []string{"reconcile", "api"}, kubernetes: true},
	"dns":               {imports: []string{"reconcile", "api", "control"}, kubernetes: true},
	"handover":          {kubernetes: true},
	"pki":               {kubernetes: true},
	"proxy":             {imports: []string{"reconcile", "api", "control"}, kubernetes: true},
	"reconcile":         {kubernetes: true},
	"scheduler":         {imports: []string{"reconcile", "api"}, kubernetes: true},
	"store":             {kubernetes: true},
	"store/bolt":        {imports: []string{"store"}, kubernetes: true},
	"store/etcd":        {imports: []string{"store"}, kubernetes: true},
	"store/storetest":   {imports: []string{"store"}},
	"test":              {imports: []string{"*"}},
	"examples":          {},
}

// replaced are the modules that skiff exists to replace. Importing them would defeat it.
var replaced = []string{"k8s.io/kubernetes", "k8s.io/apiserver"}

// TestLayout holds these house rules on every Go file of the module.
func TestLayout(t *testing.T) {
	comments := map[string]string{} // Package comments by folder.
	for _, name := range goFiles(t) {
		folder := path.Dir(name)
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		isTest := strings.HasSuffix(name, "_test.go")
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Error(err)
				continue
			}
			if reason := forbidden(folder, imported, isTest); reason != "" {
				t.Errorf("%s: imports %s: %s", files.Position(spec.Pos()), imported, reason)
			}
		}
		if ast.IsGenerated(file) {
			continue
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init: what it does, and when, is seen nowhere; let a constructor or cmd do it", files.Position(f.Pos()))
			}
		}
		if !isTest {
			comments[folder] += file.Doc.Text()
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "WaitForCacheSync" {
					t.Errorf("%s: cache.WaitForCacheSync looks every 100 ms; cache.WaitFor with HasSyncedChecker is told at once", files.Position(s.Pos()))
				}
				return true
			})
		}
	}
	for folder, comment := range comments {
		if reason := lacking(folder, comment); reason != "" {
			t.Errorf("%s: %s", folder, reason)
		}
	}
}

// goFiles lists the module's Go files. Folders that are a module of their own are not this one's.
func goFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if entry.IsDir() {
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			hidden := strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || name == "bin"
			if hidden || err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") && path.Dir(filepath.ToSlash(name)) != "." {
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatal("there is no Go file: run the test in the module's root")
	}
	return names
}

// forbidden returns why a file in the folder must not have the import, or "". Tests may set up what they test with any
// package of the module: a real store, a real API server.
func forbidden(folder, imported string, isTest bool) string {
	for _, m := range replaced {
		if within(imported, m) {
			return m + " is what skiff replaces"
		}
	}
	if !within(imported, module) || isTest {
		return ""
	}
	from, ok := rowOf(folder)
	if !ok {
		return fmt.Sprintf("the folder %s has no row in layout_test.go; give it one, and a place in ARCHITECTURE.md", folder)
	}
	to, ok := rowOf(strings.TrimPrefix(imported, module+"/"))
	may := layout[from].imports
	if !ok || to == from || slices.Contains(may, to) || slices.Contains(may, "*") {
		return ""
	}
	list := "nothing"
	if len(may) > 0 {
		list = "only " + strings.Join(may, " and ")
	}
	return fmt.Sprintf("%s may import %s of this module. Parts of skiff know each other through the Kubernetes API "+
		"and the interfaces that they own, so that each can be run, tested and replaced by itself; cmd joins them", from, list)
}

// lacking returns what is wrong with a folder's package comment, or "".
func lacking(folder, comment string) string {
	name, ok := rowOf(folder)
	switch {
	case !ok:
		return "the folder has no row in layout_test.go; give it one, and a place in ARCHITECTURE.md"
	case strings.TrimSpace(comment) == "":
		return "no package comment; say what the package does, what it refuses to do, and who calls it"
	case layout[name].kubernetes && !strings.Contains(comment, "In Kubernetes:"):
		return `the package comment lacks "In Kubernetes: ..."; name what does this in Kubernetes, and what is left out here`
	}
	return ""
}

// rowOf returns the row that a folder belongs to: its own, or that of the nearest folder above.
func rowOf(folder string) (string, bool) {
	for ; folder != "."; folder = path.Dir(folder) {
		if _, ok := layout[folder]; ok {
			return folder, true
		}
	}
	return "", false
}

// within tells if an import path is of a module.
func within(imported, mod string) bool {
	return imported == mod || strings.HasPrefix(imported, mod+"/")
}

// The rules themselves find what they are there to find.
func TestLayoutRules(t *testing.T) {
	imports := []struct {
		folder, imported string
		isTest           bool
		want             string // Part of the reason; "" if the import is fine.
	}{
		{"dns", "skiff/reconcile", false, ""},
		{"dns", "skiff/proxy", false, "dns may import only reconcile and api and control of this module"},
		{"dns", "skiff/proxy", true, ""},
		{"dns", "fmt", false, ""},
		{"dns", "k8s.io/apiserver/pkg/server", true, "k8s.io/apiserver is what skiff replaces"},
		{"dns", "k8s.io/kubernetes", false, "k8s.io/kubernetes is what skiff replaces"},
		{"dns", "k8s.io/apiserverless", false, ""},
		{"api", "skiff/store", false, "api may import nothing of this module"},
		{"apiserver", "skiff/apiserver/openapi", false, ""},
		{"apiserver/openapi", "skiff/api", false, ""},
		{"apiserver/openapi", "skiff/controller", false, "apiserver may import only api and store of this module"},
		{"apiserver", "skiff/store/bolt", false, "apiserver may import only api and store of this module"},
		{"agent", "skiff/agent/containerd", false, "agent may import only reconcile and api and agent/cgroup of this module"},
		{"agent/containerd", "skiff/agent", false, ""},
		{"agent/containerd", "skiff/agent/network", false, "agent/containerd may import only agent and agent/cgroup of this module"},
		{"cmd/skiff", "skiff/proxy", false, ""},
		{"test/bench", "skiff/proxy", false, ""},
		{"garage", "skiff/api", false, "the folder garage has no row"},
	}
	for _, tc := range imports {
		got := forbidden(tc.folder, tc.imported, tc.isTest)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s imports %s (test: %t): %q, want %q", tc.folder, tc.imported, tc.isTest, got, tc.want)
		}
	}
	comments := []struct{ folder, comment, want string }{
		{"dns", "Package dns answers.\n\nIn Kubernetes: CoreDNS.\n", ""},
		{"dns", "Package dns answers.\n", `lacks "In Kubernetes: ..."`},
		{"apiserver/openapi", "Package openapi describes.\n", `lacks "In Kubernetes: ..."`},
		{"cmd/skiff", "Command skiff is it all.\n", ""},
		{"cmd/skiff", "", "no package comment"},
		{"garage", "Package garage has a row nowhere.\n", "no row"},
	}
	for _, tc := range comments {
		got := lacking(tc.folder, tc.comment)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s with comment %q: %q, want %q", tc.folder, tc.comment, got, tc.want)
		}
	}
}
