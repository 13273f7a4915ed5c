package skiff_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestArchitectureNames promises that ARCHITECTURE.md tells its stories by names that are in the code.
func TestArchitectureNames(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]bool{}
	for _, name := range goFiles(t) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		collectMembers(file, members)
	}
	named := regexp.MustCompile("`([A-Za-z]+\\.[A-Za-z]+)`")
	found := named.FindAllStringSubmatch(string(text), -1)
	if len(found) < 20 {
		t.Fatalf("ARCHITECTURE.md names only %d methods: does this test still read it?", len(found))
	}
	for _, match := range found {
		name := match[1]
		if strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "spec.") {
			continue
		}
		if !members[name] {
			t.Errorf("ARCHITECTURE.md speaks of %s, which no package declares", name)
		}
	}
}

// collectMembers notes each method and field of a file's types as Type.name.
func collectMembers(file *ast.File, members map[string]bool) {
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil {
			members[typeName(f.Recv.List[0].Type)+"."+f.Name.Name] = true
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		var fields *ast.FieldList
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			fields = typ.Fields
		case *ast.InterfaceType:
			fields = typ.Methods
		default:
			return true
		}
		for _, field := range fields.List {
			for _, name := range field.Names {
				members[spec.Name.Name+"."+name.Name] = true
			}
		}
		return true
	})
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return typeName(e.X)
	}
	return ""
}
