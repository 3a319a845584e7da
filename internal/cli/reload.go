package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/dspex/dspex-sidecar/internal/config"
)

type reloadCommand struct {
	connection

	Wait    bool          `help:"Return when all is in force, and say what has changed."`
	Renew   bool          `help:"Start new workers though no setting asks for it, such as for new code."`
	Timeout time.Duration `default:"5m" placeholder:"TIME" help:"How long to wait (default: ${default})."`
}

func (*reloadCommand) Help() string {
	return "Without --wait the exit code says only that the sidecar was asked; health says what became of it.\n\nExample:\n\n    " + program + " reload --wait"
}

// AfterApply refuses what no wait can mean.
func (c *reloadCommand) AfterApply() error {
	q := question{Timeout: c.Timeout}
	return q.AfterApply()
}

// Run asks for a reload. What is wrong with the configuration ends it with the code that `check` has for it.
func (c *reloadCommand) Run(ctx context.Context, e *Env) error {
	q := question{connection: c.connection, Timeout: c.Timeout}
	result, err := q.ask(ctx, e, "admin.reload", map[string]any{"wait": c.Wait, "renew": c.Renew})
	if err != nil {
		return err
	}
	switch {
	case c.JSON:
		err = e.printJSON(result)
	case !c.Wait:
		err = e.print([]byte("asked; health says if it fails\n"))
	default:
		err = e.print(e.reloadText(result))
	}
	missing := textOf(result["workers_missing"])
	switch {
	case err == nil && c.Wait && result["status"] == "in_force" && result["workers_missing"] != nil:
		if !c.JSON {
			e.complain("in force, but " + missing)
		}
		return exitError(exitDegraded)
	case err != nil || !c.Wait || result["status"] == "in_force":
		return err
	case !c.JSON:
		e.complain("not reloaded, the last good configuration stays in force: " + textOf(result["reason"]))
	}
	if result["status"] == "refused" {
		return exitError(exitUsage)
	}
	return exitError(exitFailed)
}

// took shows microseconds.
func took(v any) string {
	us, ok := v.(int64)
	if !ok {
		return cell(v)
	}
	d := time.Duration(us) * time.Microsecond
	switch {
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	}
	return d.String()
}

func (e *Env) reloadText(result map[string]any) []byte {
	if result["status"] != "in_force" {
		return nil
	}
	changes := rows(result["changes"])
	renewed, _ := result["renewed"].(bool)
	text := "in force: nothing has changed\n"
	switch {
	case len(changes) > 0:
		text = string(e.table(append(changeColumns(), column{"IN FORCE", func(row map[string]any) string {
			if row["in_force"] == true {
				return "after " + took(row["took_us"])
			}
			return "no: restart the sidecar"
		}}), changes))
	case renewed:
		text = "in force\n"
	}
	if renewed {
		text += fmt.Sprintf("generation %s has taken over; its workers took %s\n", cell(result["generation"]), took(result["prepare_us"]))
	}
	return []byte(text)
}

func changeColumns() []column {
	return []column{col("SETTING", "key"), col("OLD", "old"), col("NEW", "new")}
}

// againstRunning shows what a reload would change, as the running sidecar reads its own file, or the text of another one: it has the environment, the folder and the CPUs
// that count.
func (c *checkCommand) againstRunning(ctx context.Context, e *Env) error {
	params := map[string]any{}
	if c.Config != "" {
		text, err := os.ReadFile(c.Config)
		if err != nil {
			return config.Errors{{File: c.Config, Message: "cannot be read: " + err.Error()}}
		}
		params["text"] = string(text)
	}
	if c.Profile != "" {
		params["profile"] = c.Profile
	}
	q := question{connection: connection{Socket: c.Socket, JSON: c.JSON}, Timeout: connectTimeout}
	result, err := q.ask(ctx, e, "admin.config.compare", params)
	if err != nil {
		return err
	}
	if result["valid"] != true {
		wrong := c.errorsOf(result)
		if c.JSON {
			return c.refuse(e, wrong)
		}
		return wrong
	}
	list := rows(result["changes"])
	switch {
	case c.JSON:
		return e.printJSON(map[string]any{"valid": true, "changes": result["changes"]})
	case len(list) == 0:
		return e.print([]byte("nothing would change\n"))
	}
	return e.print(e.table(append(changeColumns(), column{"TAKES", func(row map[string]any) string {
		return map[string]string{"live": "nothing: at once", "generation": "new workers", "restart": "a restart of the sidecar"}[fmt.Sprint(row["effect"])]
	}}), list))
}

// errorsOf reads what is wrong. Where a text was sent, it stands in the file that it came from.
func (c *checkCommand) errorsOf(result map[string]any) config.Errors {
	var wrong config.Errors
	for _, row := range rows(result["errors"]) {
		one := &config.Error{}
		one.File, _ = row["file"].(string)
		one.Key, _ = row["key"].(string)
		one.Message, _ = row["message"].(string)
		line, _ := row["line"].(int64)
		column, _ := row["column"].(int64)
		one.Line, one.Column = int(line), int(column)
		if c.Config != "" && (one.File == result["path"] || one.File == "" && one.Line > 0) {
			one.File = c.Config
		}
		wrong = append(wrong, one)
	}
	return wrong
}
