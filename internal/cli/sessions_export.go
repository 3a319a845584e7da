package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dspex/dspex-sidecar/internal/client"
	"github.com/dspex/dspex-sidecar/wire"
)

// exportMagic begins a file of sessions export; pages follow, each with its length before it, and a length of 0 at the end.
const exportMagic = "dspex-session 1\n"

// toEnd is how long a session that was imported in part may take to end.
const toEnd = 5 * time.Second

type sessionsExportCommand struct {
	question
	whose

	Reveal bool   `help:"Export somebody else's session, too."`
	Output string `short:"o" placeholder:"FILE" required:"" help:"The file; - is standard output."`
}

func (*sessionsExportCommand) Help() string {
	return "Example:\n\n    " + program + " sessions export s1 --output s1.session"
}

// Run writes page after page of the session's last commit.
func (c *sessionsExportCommand) Run(ctx context.Context, e *Env) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := c.dial(ctx, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	params := c.params()
	if c.Reveal {
		params["reveal"] = true
	}
	if c.Output == "-" {
		_, err := exportTo(ctx, conn, params, e.Stdout)
		return err
	}
	// What the file held before stays until there is something to take its place.
	var file bytes.Buffer
	pages, err := exportTo(ctx, conn, params, &file)
	if err != nil {
		return err
	}
	// It is its owner's alone: a session may hold anything.
	if err := os.WriteFile(c.Output, file.Bytes(), 0o600); err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(map[string]any{"session": c.ID, "file": c.Output, "pages": pages})
	}
	return e.print([]byte("exported " + escape(c.ID) + " to " + escape(c.Output) + "\n"))
}

func exportTo(ctx context.Context, conn *client.Conn, params map[string]any, to io.Writer) (pages int, err error) {
	if _, err := io.WriteString(to, exportMagic); err != nil {
		return 0, err
	}
	for {
		result, err := callMap(ctx, conn, "session.export", params)
		if err != nil {
			return pages, err
		}
		page := mapOf(result["export"])
		raw, err := wire.Marshal(page)
		if err != nil {
			return pages, err
		}
		if _, err := to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(raw)))); err != nil { //nolint:gosec // a frame's length
			return pages, err
		}
		if _, err := to.Write(raw); err != nil {
			return pages, err
		}
		pages++
		if result["next"] == nil {
			_, err := to.Write(make([]byte, 4))
			return pages, err
		}
		params["after"], params["version"] = result["next"], page["version"]
	}
}

type sessionsImportCommand struct {
	question

	File  string `arg:"" help:"The file; - is standard input."`
	As    string `placeholder:"ID" help:"The session's id (default: that of the exported one)."`
	Owner string `placeholder:"OWNER" help:"Whose it is to be, such as uid:1000; for administrators."`
}

func (*sessionsImportCommand) Help() string {
	return "Example:\n\n    " + program + " sessions import s1.session --as s2"
}

// Run makes the session; where that fails half-way, it is ended again.
func (c *sessionsImportCommand) Run(ctx context.Context, e *Env) error {
	in := e.Stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := c.dial(limited, e)
	if err != nil {
		return err
	}
	defer conn.Close()
	params := map[string]any{}
	if c.As != "" {
		params["session"] = c.As
	}
	if c.Owner != "" {
		params["owner"] = c.Owner
	}
	result, err := importFrom(limited, conn, params, in)
	if err != nil && result != nil {
		params["session"] = result["session"]
		delete(params, "export")
		delete(params, "append")
		delete(params, "more")
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), toEnd) // the time that there was may be over
		defer cancel()
		_, ended := callMap(late, conn, "session.end", params)
		err = errors.Join(err, ended)
	}
	if err != nil || c.JSON {
		return e.jsonUnless(err, result)
	}
	return e.print([]byte("imported " + cell(result["session"]) + "\n"))
}

// importFrom returns the last result: nil where there is no session yet.
func importFrom(ctx context.Context, conn *client.Conn, params map[string]any, in io.Reader) (result map[string]any, err error) {
	magic := make([]byte, len(exportMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != exportMagic {
		return nil, errors.New("this is no file of sessions export, or of another version")
	}
	page, err := readPage(in)
	for {
		if err != nil {
			return result, fmt.Errorf("the file is cut off: %w", err)
		}
		// What breaks the protocol's rules would end the connection, and leave half a session behind.
		if wire.Scan(page) != nil || wire.CheckContent(page) != nil {
			return result, errors.New("the file is damaged: it does not hold what was exported")
		}
		params["export"] = msgpack.RawMessage(page)
		if page, err = readPage(in); err != nil { // nothing is made of a file that is cut off there
			continue
		}
		params["more"] = len(page) > 0
		done, failed := callMap(ctx, conn, "session.import", params)
		if failed != nil {
			return result, failed
		}
		if result, params["append"] = done, true; len(page) == 0 {
			return result, nil
		}
	}
}

// readPage reads one page. No memory is taken for a length that the file does not hold.
func readPage(in io.Reader) ([]byte, error) {
	var length uint32
	if err := binary.Read(in, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	page, err := io.ReadAll(io.LimitReader(in, int64(length)))
	if err == nil && len(page) != int(length) {
		err = io.ErrUnexpectedEOF
	}
	return page, err
}
