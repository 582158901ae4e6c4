package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Row is one line of the table.
type Row struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	// Goal is what to reach, nil where the figure is only told. AtMost says
	// which side of it is good.
	Goal     *float64 `json:"goal,omitempty"`
	AtMost   bool     `json:"at_most,omitempty"`
	Measured float64  `json:"measured"`
	Unit     string   `json:"unit"`
	// Note explains the figure.
	Note string `json:"note,omitempty"`
}

// Met tells whether the goal is reached; true where there is none.
func (r *Row) Met() bool {
	switch {
	case r.Goal == nil:
		return true
	case r.AtMost:
		return r.Measured <= *r.Goal
	}
	return r.Measured >= *r.Goal
}

// Ratio is the measured figure over its goal, 0 where that means nothing.
func (r *Row) Ratio() float64 {
	if r.Goal == nil || *r.Goal == 0 {
		return 0
	}
	return r.Measured / *r.Goal
}

// AtLeast and AtMost make rows with a goal, Told one without.
func AtLeast(name string, goal, measured float64, unit, note string) Row {
	return Row{Name: name, Goal: &goal, Measured: measured, Unit: unit, Note: note}
}

func AtMost(name string, goal, measured float64, unit, note string) Row {
	return Row{Name: name, Goal: &goal, AtMost: true, Measured: measured, Unit: unit, Note: note}
}

func Told(name string, measured float64, unit, note string) Row {
	return Row{Name: name, Measured: measured, Unit: unit, Note: note}
}

// Print writes the table for people.
func Print(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\tGOAL\tMEASURED\tRATIO\t\t")
	section := ""
	for i := range rows {
		r := &rows[i]
		if r.Section != section {
			section = r.Section
			fmt.Fprintf(t, "%s\t\t\t\t\t\n", section)
		}
		goal, ratio, met := "", "", ""
		if r.Goal != nil {
			sign := "≥"
			if r.AtMost {
				sign = "≤"
			}
			goal, ratio, met = fmt.Sprintf("%s %.4g %s", sign, *r.Goal, r.Unit), fmt.Sprintf("%.2f", r.Ratio()), "met"
			if !r.Met() {
				met = "MISSED"
			}
		}
		fmt.Fprintf(t, "  %s\t%s\t%.4g %s\t%s\t%s\t%s\n", r.Name, goal, r.Measured, r.Unit, ratio, met, r.Note)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// WriteJSON writes the table for programs: one object with the machine, the time
// and the rows.
func WriteJSON(w io.Writer, m Machine, rows []Row) error {
	type row struct {
		*Row
		Ratio float64 `json:"ratio"` // 0 where it means nothing
	}
	told := make([]row, 0, len(rows))
	for i := range rows {
		told = append(told, row{&rows[i], rows[i].Ratio()})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	if err := e.Encode(struct {
		Machine
		Rows []row `json:"rows"`
	}{m, told}); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}
