// What is published.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { VERSION } from "../src/version.js";
import { PACKAGE, ROOT } from "./support/root.js";

const execute = promisify(execFile);
const described = JSON.parse(readFileSync(resolve(PACKAGE, "package.json"), "utf8"));

test("one version", () => {
  assert.equal(VERSION, described.version);
  assert.equal(VERSION, readFileSync(resolve(ROOT, "VERSION"), "utf8").trim());
});

test("JavaScript and its types, and nothing else", async () => {
  const { stdout } = await execute("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: PACKAGE });
  const [{ files }] = JSON.parse(stdout);
  const packed: string[] = files.map(({ path }: { path: string }) => path);
  const others = packed.filter((path) => !/^dist\/[\w/]+\.(js|d\.ts)$/.test(path));
  assert.deepEqual(others.sort(), ["LICENSE", "package.json"]);
  for (const { types, default: script } of Object.values<{ types: string; default: string }>(described.exports)) {
    assert(packed.includes(types.slice(2)) && packed.includes(script.slice(2)));
  }
  assert.equal(described.dependencies, undefined);
});

test("it is imported by its name", async () => {
  const source = `for (const name of ["dspex", "dspex/testing", "dspex/wire"])
    console.log(Object.keys(await import(name)).sort().join(" "));`;
  const { stdout } = await execute(process.execPath, ["--input-type=module", "-e", source], { cwd: PACKAGE });
  const [main, testing, wire] = stdout.split("\n");
  assert.equal(main, "Client DspexError Timestamp connect get_adapter");
  assert.equal(testing, "FakeSidecar Peer");
  assert.match(wire ?? "", /FrameSplitter .*decode .*encodeCancel/);
});

/** Files that a file of src imports. */
function imports(name: string): string[] {
  const source = readFileSync(resolve(PACKAGE, "src", name), "utf8");
  return [...source.matchAll(/from "([^"]+)"/g)].map((match) => match[1] as string);
}

test("the protocol knows no sockets, and nobody but the tests' fakes knows those", () => {
  const sources = readdirSync(resolve(PACKAGE, "src"), { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  assert(sources.length > 20);
  for (const name of sources) {
    for (const imported of imports(name)) {
      if (imported === "node:net") assert.match(name, /^(connection|testing\/\w+)\.ts$/, name);
      if (name.startsWith("wire/")) assert.match(imported, /^(\.\/|\.\.\/errors\.js$|node:buffer$)/, name);
      if (!name.startsWith("testing/")) assert.doesNotMatch(imported, /testing/, name);
    }
  }
});
