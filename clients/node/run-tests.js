// Build the package and its tests, then run them: `npm test`.
//
// usage: node run-tests.js [FILE…]      files: names of tests, such as wire.test.ts; without any, all of them

import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(dirname(fileURLToPath(import.meta.url)));

function run(command, ...args) {
  const { status } = spawnSync(command, args, { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

const bin = "node_modules/.bin";
rmSync("dist", { recursive: true, force: true });
rmSync("out", { recursive: true, force: true });
run(`${bin}/tsc`, "-p", "tsconfig.build.json");
run(`${bin}/tsc`, "-p", "tsconfig.tests.json");
const wanted = process.argv.slice(2);
const files = readdirSync("out/tests").filter((name) => name.endsWith(".test.js"));
const chosen = files.filter((name) => wanted.length === 0 || wanted.includes(name.replace(/js$/, "ts")));
// More files at once than cores: they wait more than they compute.
run(
  process.execPath,
  "--test",
  "--test-concurrency=4",
  "--test-reporter=spec",
  ...chosen.map((name) => `out/tests/${name}`),
);
