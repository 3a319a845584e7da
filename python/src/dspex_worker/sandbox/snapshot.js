// Writes Pyodide's memory, just started, beside itself: starting from that takes a tenth of the time.
import { createRequire } from "node:module";
import { loadPyodide } from "./pyodide/pyodide.mjs";

globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = `${import.meta.dirname}/pyodide`;
const pyodide = await loadPyodide({ _makeSnapshot: true });
Deno.writeFileSync(`${import.meta.dirname}/snapshot.bin`, pyodide.makeMemorySnapshot());
Deno.exit(0);
