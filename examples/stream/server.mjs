// An answer that is sent as it comes, as server-sent events: `GET /?question=…`. When the browser leaves, the call ends,
// in the worker and at the LM too.

import { createServer } from "node:http";
import { connect } from "dspex";

const client = await connect({ waitMs: 10_000 });

async function answer(question, response, signal) {
  const session = await client.createSession();
  try {
    await session.configureLM("local");
    const qa = await session.createProgram("qa", "question -> answer: str");
    const stream = qa.stream({ question }, { signal });
    for await (const item of stream) {
      if (item.type === "delta") response.write(`data: ${JSON.stringify(item.text)}\n\n`);
    }
    response.write(`event: end\ndata: ${JSON.stringify(stream.result)}\n\n`);
  } finally {
    await session.end();
  }
}

const server = createServer(async (request, response) => {
  const question = new URL(request.url ?? "/", "http://localhost").searchParams.get("question") ?? "";
  const leaving = new AbortController();
  response.once("close", () => leaving.abort());
  response.setHeader("content-type", "text/event-stream");
  try {
    await answer(question, response, leaving.signal);
  } catch (error) {
    response.write(`event: error\ndata: ${JSON.stringify({ code: error.code, message: error.message })}\n\n`);
  }
  response.end();
});
server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
process.once("SIGTERM", () => {
  server.close(() => client.close());
  server.closeAllConnections();
});
