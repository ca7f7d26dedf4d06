// Command docgen writes the reference pages of docs/ from the Go source and its
// doc comments, in the form of OpenAPI Generator's pages:
//
//	go run ./internal/docgen          writes them; from the root of the repository, as go generate does
//	go run ./internal/docgen -check   writes nothing, and fails if a page is stale
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// pages are the generated ones. Each has its template in pages.tmpl.
var pages = []string{
	"README.md", "SyncV1StreamMessageApi.md", "SyncV1ServiceSyncStreamStreamMessage.md", "SyncV1StreamApi.md", "SyncV1ServiceSyncStream.md",
}

//go:embed pages.tmpl
var templates string

func main() {
	check := flag.Bool("check", false, "name the stale pages and write nothing")
	flag.Parse()
	stale, err := update(".", *check)
	if err == nil && *check && len(stale) > 0 {
		err = fmt.Errorf("stale, run go generate: %s", strings.Join(stale, " "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

// update returns the pages below root that differ from the source, and writes
// them unless it only checks.
func update(root string, check bool) (stale []string, err error) {
	s, err := read(root)
	if err != nil {
		return nil, err
	}
	// What the templates can ask for. An error of a function ends the run.
	t, err := template.New("").Funcs(template.FuncMap{
		"guides": s.guides, "results": s.results, "page": page, "service": service, "literal": s.literal, "type": s.typeNamed, "fields": fields,
		"operation": s.operation, "signature": signature, "example": s.example,
		"markdown": s.markdown, "cell": s.cell, "synopsis": s.pkg.Synopsis, "lower": strings.ToLower,
	}).Parse(templates)
	if err != nil {
		return nil, err
	}
	for _, name := range pages {
		var text strings.Builder
		if err := t.ExecuteTemplate(&text, name, nil); err != nil {
			return nil, err
		}
		if old, err := fs.ReadFile(s.docs, name); err == nil && string(old) == text.String() {
			continue
		}
		stale = append(stale, "docs/"+name)
		if check {
			continue
		}
		path := filepath.Join(root, "docs", name)
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil { //nolint:gosec // everybody may read it
			return nil, err
		}
	}
	return stale, nil
}

// source is what the pages are made from.
type source struct {
	docs       fs.FS
	fset       *token.FileSet
	pkg        *doc.Package
	literals   map[string]string // the strings of declarations name = "…" and of entries "name": {"…"}
	formFields map[string]string // by parameter
}

func read(root string) (*source, error) {
	s := &source{docs: os.DirFS(filepath.Join(root, "docs")), fset: token.NewFileSet(), literals: map[string]string{}, formFields: map[string]string{}}
	names, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range names {
		if base := filepath.Base(name); strings.HasSuffix(base, "_test.go") && !strings.HasPrefix(base, "example") {
			continue
		}
		file, err := parser.ParseFile(s.fset, name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		ast.Inspect(file, s.collect)
		files = append(files, file)
	}
	s.pkg, err = doc.NewFromFiles(s.fset, files, "github.com/twiliosync/twiliosync-go")
	return s, err
}

// collect keeps what is not exported, which go/doc drops.
func (s *source) collect(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.ValueSpec:
		if len(n.Values) > 0 {
			s.literals[n.Names[0].Name] = unquote(n.Values[0])
		}
	case *ast.KeyValueExpr:
		if values, ok := n.Value.(*ast.CompositeLit); ok && len(values.Elts) > 0 {
			s.literals[unquote(n.Key)] = unquote(values.Elts[0])
		}
	case *ast.Field:
		s.formFields[strings.ToLower(tag(n, "url"))] = tag(n, "url")
	}
	return true
}

func (s *source) literal(name string) (string, error) {
	if s.literals[name] == "" {
		return "", fmt.Errorf("the source has no string for %s", name)
	}
	return s.literals[name], nil
}

// unquote returns the value of a string literal, and "" for anything else.
func unquote(expr ast.Expr) (value string) {
	if lit, ok := expr.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		value, _ = strconv.Unquote(lit.Value)
	}
	return value
}

func tag(field *ast.Field, key string) string {
	if field.Tag == nil {
		return ""
	}
	name, _, _ := strings.Cut(reflect.StructTag(unquote(field.Tag)).Get(key), ",")
	return name
}

// guides returns the pages that are written by hand, with their titles.
func (s *source) guides() (map[string]string, error) {
	guides := map[string]string{}
	names, err := fs.Glob(s.docs, "*.md")
	for _, page := range names {
		if slices.Contains(pages, page) {
			continue
		}
		text, err := fs.ReadFile(s.docs, page)
		if err != nil {
			return nil, err
		}
		firstLine, _, _ := strings.Cut(string(text), "\n")
		if guides[page] = strings.TrimPrefix(firstLine, "# "); guides[page] == firstLine {
			return nil, fmt.Errorf("docs/%s doesn't begin with a heading", page)
		}
	}
	return guides, err
}

func (s *source) typeNamed(name string) (*doc.Type, error) {
	for _, t := range s.pkg.Types {
		if t.Name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("there is no exported type %s", name)
}

// property is a field or a parameter.
type property struct{ Name, Type, Doc, Notes string }

// fields returns the exported fields of a struct, without embedded ones.
func fields(t *doc.Type) (fields []property) {
	for _, field := range t.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType).Fields.List {
		p := property{Type: types.ExprString(field.Type), Doc: field.Doc.Text()}
		if name := tag(field, "json"); name != "" {
			p.Notes = "JSON `" + name + "`"
		}
		for _, id := range field.Names {
			p.Name = id.Name
			fields = append(fields, p)
		}
	}
	return fields
}

// operation is what the doc comment of a method says, taken apart.
type operation struct {
	Verb, Path, Source string // from the paragraph "Operation: … Source: …"
	Parameters         []property
	Doc                string // the other paragraphs
}

var special = regexp.MustCompile(`^Operation: (\S+) (\S+) Source: (\S+)$`)

// operation takes a doc comment apart. A paragraph that begins with the name of
// a parameter is about it, up to a semicolon and the name of the next.
func (s *source) operation(m *doc.Func) (op operation, err error) {
	names, about := []string{}, map[string]string{"ctx": "Bounds the whole call: its attempts and the waits between them."}
	inEveryMethod := s.inEveryMethod(m)
	for _, field := range m.Decl.Type.Params.List {
		for _, id := range field.Names {
			names = append(names, id.Name)
			op.Parameters = append(op.Parameters, property{Name: id.Name, Type: types.ExprString(field.Type)})
		}
	}
	begin := regexp.MustCompile(`(?:^|; )(` + strings.Join(names, "|") + `) (?:is )?`)
	for paragraph := range strings.SplitSeq(inEveryMethod+m.Doc, "\n\n") {
		text := strings.Join(strings.Fields(paragraph), " ")
		if line := special.FindStringSubmatch(text); line != nil {
			op.Verb, op.Path, op.Source = op.Verb+line[1], op.Path+line[2], op.Source+line[3]
			continue
		}
		parts := strings.Split(begin.ReplaceAllString(text, "\x00$1 "), "\x00")
		if parts[0] != "" {
			op.Doc += paragraph + "\n\n"
			continue
		}
		for _, part := range parts[1:] {
			name, text, _ := strings.Cut(part, " ")
			about[name] = strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
		}
	}
	for i := range op.Parameters {
		p := &op.Parameters[i]
		p.Doc = about[p.Name]
		if t, err := s.typeNamed(strings.TrimPrefix(p.Type, "*")); err == nil && p.Name == "params" {
			p.Doc = s.pkg.Synopsis(t.Doc)
		}
		if field := s.formFields[strings.ToLower(p.Name)]; field != "" {
			p.Notes = "form parameter `" + field + "`"
		} else if inPath := regexp.MustCompile(`(?i)\{(` + p.Name + `)\}`).FindStringSubmatch(op.Path); inPath != nil {
			p.Notes = "path parameter `" + inPath[1] + "`"
		}
		described := p.Doc != "" && (op.Path != "" || inEveryMethod == "")
		if p.Name != "ctx" && described != (op.Path != "") {
			return op, fmt.Errorf("the doc comment of %s needs both a paragraph Operation: and one that begins with %s", m.Name, p.Name)
		}
	}
	return op, nil
}

// inEveryMethod is the paragraph of a service's comment about what its methods have in common.
func (s *source) inEveryMethod(m *doc.Func) string {
	t, err := s.typeNamed(strings.TrimPrefix(m.Recv, "*"))
	if err != nil {
		return ""
	}
	_, common, _ := strings.Cut(t.Doc, "\nIn every method ")
	common, _, found := strings.Cut(common, "\n\n")
	if !found {
		return ""
	}
	return common + "\n\n"
}

// results lists what a method returns, with links to the pages of models.
func (s *source) results(m *doc.Func) string {
	var list []string
	for _, field := range m.Decl.Type.Results.List {
		name := types.ExprString(field.Type)
		switch model := strings.TrimPrefix(name, "*"); {
		case model == "Response":
			list = append(list, `[**\*Response**](SyncV1StreamMessageApi.md#response)`)
		case name == "error":
			list = append(list, `**error** (a [\*Error](errors.md))`)
		case strings.HasPrefix(model, "SyncV1"):
			list = append(list, fmt.Sprintf(`[**\*%s**](%s.md)`, model, model))
		case strings.HasPrefix(name, "*"):
			list = append(list, fmt.Sprintf(`[**\*%s**](#%s)`, model, strings.ToLower(model)))
		default:
			list = append(list, "`"+name+"`")
		}
	}
	return strings.Join(list, ", ")
}

// page is that of a method's service, and service the field of Client.
func page(m *doc.Func) string {
	return "SyncV1" + strings.TrimSuffix(strings.TrimPrefix(m.Recv, "*"), "Service") + "Api.md"
}

func service(m *doc.Func) string {
	return "client." + strings.TrimSuffix(strings.TrimPrefix(m.Recv, "*"), "Service") + "s"
}

func signature(m *doc.Func) string {
	return m.Name + strings.TrimPrefix(types.ExprString(m.Decl.Type), "func")
}

// realClient stands where an example makes a client of the fake service.
const realClient = "client, err := twiliosync.NewClientFromEnv()\nif err != nil {\n\tlog.Fatal(err)\n}"

var aboutFake = regexp.MustCompile(`\b(fake|stop)\b`)

// example returns the code of a method's Example function, without what it does
// with the fake.
func (s *source) example(m *doc.Func) (string, error) {
	i := slices.IndexFunc(m.Examples, func(e *doc.Example) bool { return e.Suffix == "" })
	if i < 0 {
		return "", fmt.Errorf("the example files have no Example%s_%s", strings.TrimPrefix(m.Recv, "*"), m.Name)
	}
	var code []string
	for _, statement := range m.Examples[i].Code.(*ast.BlockStmt).List {
		var text strings.Builder
		if err := format.Node(&text, s.fset, statement); err != nil {
			return "", err
		}
		if strings.Contains(text.String(), "fakeSync(") {
			code = append(code, realClient)
		} else if !aboutFake.MatchString(text.String()) {
			code = append(code, text.String())
		}
	}
	return strings.Join(code, "\n"), nil
}

// markdown renders a doc comment, with links to the standard library.
func (s *source) markdown(text string) string {
	printer := s.pkg.Printer()
	printer.DocLinkURL = func(link *comment.DocLink) string {
		if link.ImportPath == "" {
			return ""
		}
		return link.DefaultURL("https://pkg.go.dev")
	}
	return string(printer.Markdown(s.pkg.Parser().Parse(text)))
}

// cell renders a doc comment as a table's cell.
func (s *source) cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s.markdown(text)), " "), "|", `\|`)
}
