// A JSON schema as a TypeScript type.

type Schema = Readonly<Record<string, unknown>>;

const DEEPEST = 16; // a type that holds itself is `unknown` from there on

const PLAIN: Readonly<Record<string, string>> = {
  string: "string",
  integer: "number",
  number: "number",
  boolean: "boolean",
  null: "null",
};

/** The type of the values that a schema allows. What TypeScript cannot say is wider than the schema, never narrower. */
export function typeOf(schema: unknown, root: unknown = schema, depth = 0): string {
  if (schema === false) return "never";
  if (!isMap(schema) || depth > DEEPEST) return "unknown";
  const inner = (one: unknown): string => typeOf(one, root, depth + 1);
  if (typeof schema.$ref === "string") return inner(referred(schema.$ref, root));
  if (Array.isArray(schema.enum)) return union(schema.enum.map(literal));
  if ("const" in schema) return literal(schema.const);
  const several = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(several)) return union(several.map(inner));
  if (Array.isArray(schema.allOf)) return schema.allOf.map((one) => `(${inner(one)})`).join(" & ");
  if (Array.isArray(schema.type)) return union(schema.type.map((type) => inner({ ...schema, type })));
  if (schema.type === "string" && schema.contentEncoding === "base64") return "Uint8Array";
  if (schema.type === "string" && /^date(-time)?$/.test(String(schema.format))) return "string | Date";
  if (schema.type === "array") return arrayOf(schema, inner);
  if (schema.type === "object" || "properties" in schema) return objectOf(schema, inner);
  return PLAIN[String(schema.type)] ?? "unknown";
}

function arrayOf(schema: Schema, inner: (one: unknown) => string): string {
  if (Array.isArray(schema.prefixItems)) return `[${schema.prefixItems.map(inner).join(", ")}]`;
  return `(${inner(schema.items)})[]`;
}

function objectOf(schema: Schema, inner: (one: unknown) => string): string {
  const properties = isMap(schema.properties) ? Object.entries(schema.properties) : [];
  const more = schema.additionalProperties;
  if (properties.length === 0) return more === false ? "Record<string, never>" : `Record<string, ${inner(more)}>`;
  const required = Array.isArray(schema.required) ? schema.required : [];
  const named = properties.map(([name, of]) => {
    const type = inner(of);
    return required.includes(name) ? `${literal(name)}: ${type}` : `${literal(name)}?: ${type} | undefined`;
  });
  return `{ ${named.join("; ")} }`;
}

/** What `#/$defs/Name` stands for. */
function referred(reference: string, root: unknown): unknown {
  if (!reference.startsWith("#")) return undefined;
  let found = root;
  for (const step of reference.split("/").slice(1)) {
    found = isMap(found) ? found[step.replaceAll("~1", "/").replaceAll("~0", "~")] : undefined;
  }
  return found;
}

function union(types: readonly string[]): string {
  return types.length === 0 ? "never" : [...new Set(types)].join(" | ");
}

export function literal(value: unknown): string {
  // A line of JSON is TypeScript, but for two characters that end a line there and not here.
  return JSON.stringify(value).replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
}

function isMap(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
