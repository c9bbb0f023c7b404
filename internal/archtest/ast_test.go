package archtest

import "go/ast"

// funcName returns the name of a plain function declaration.
func funcName(d ast.Decl) (string, bool) {
	f, ok := d.(*ast.FuncDecl)
	if !ok || f.Recv != nil {
		return "", false
	}
	return f.Name.Name, true
}
