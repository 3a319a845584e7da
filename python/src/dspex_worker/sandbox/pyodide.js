// Stands for "npm:pyodide/pyodide.js" in DSPy's runner: the same, from files, begun from a snapshot of its memory.
import { createRequire } from "node:module";
import { loadPyodide } from "./pyodide/pyodide.mjs";

// pyodide.asm.js looks for these where it takes what it runs in for Node.
globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = `${import.meta.dirname}/pyodide`;

const snapshot = Deno.readFileSync(`${import.meta.dirname}/snapshot.bin`);

export default { loadPyodide: () => loadPyodide({ _loadSnapshot: snapshot }) };
