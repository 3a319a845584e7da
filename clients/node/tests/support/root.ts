import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The project's folder. Tests run from clients/node/out/tests. */
export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../../../../..");
export const PACKAGE = resolve(ROOT, "clients/node");
