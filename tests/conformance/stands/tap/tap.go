// Package tap writes the Test Anything Protocol for runtime-tools' programs.
//
// They import it by the name of a library that Debian does not carry; this is the part of its
// interface that they call.
//
// Source: https://testanything.org/tap-version-13-specification.html
package tap

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// T counts the results of one program.
type T struct {
	count *int
	todo  string
}

// New starts at no result.
func New() *T { return &T{count: new(int)} }

// Todo is the same count; what it writes is known not to be done yet.
func (t *T) Todo() *T { return &T{count: t.count, todo: " # TODO"} }

// Header says the version, and the plan if it is known.
func (t *T) Header(planned int) {
	fmt.Println("TAP version 13")
	if planned > 0 {
		fmt.Printf("1..%d\n", planned)
	}
}

// AutoPlan says how many results there were.
func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.count) }

// Ok writes one result.
func (t *T) Ok(passed bool, description string) {
	*t.count++
	word := "ok"
	if !passed {
		word = "not ok"
	}
	fmt.Printf("%s %d%s - %s\n", word, *t.count, t.todo, description)
}

// Pass writes a result that is good.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail writes a result that is bad.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip writes so many results as skipped.
func (t *T) Skip(count int, reason string) {
	for ; count > 0; count-- {
		*t.count++
		fmt.Printf("ok %d # SKIP %s\n", *t.count, reason)
	}
}

// Diagnostic writes a comment, which may have several lines.
func (t *T) Diagnostic(message string) {
	fmt.Println("# " + strings.ReplaceAll(message, "\n", "\n# "))
}

// Diagnosticf is Diagnostic with a format.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML writes what belongs to the result before it; JSON is YAML.
func (t *T) YAML(message interface{}) error {
	text, err := json.MarshalIndent(message, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "  ---\n  %s\n  ...\n", text)
	return nil
}
