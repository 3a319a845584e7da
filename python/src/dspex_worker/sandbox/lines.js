// Stands for "https://deno.land/std/io/mod.ts" in DSPy's runner, which takes this alone of it.
export async function* readLines(reader) {
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(65536);
  let rest = "";
  for (let n = await reader.read(chunk); n !== null; n = await reader.read(chunk)) {
    const lines = (rest + decoder.decode(chunk.subarray(0, n), { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}
