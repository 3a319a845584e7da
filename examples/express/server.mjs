// A web service before the sidecar: `node server.mjs`, with PORT in the environment.

import { connect, DspexError } from "dspex";
import express from "express";

const client = await connect({ waitMs: 10_000, timeoutMs: 60_000 });
const app = express();
app.use(express.json());

app.post("/digest", async (request, response) => {
  response.json(await client.program("digest")({ text: request.body.text }));
});

app.get("/health", async (_, response) => {
  response.json(await client.call("sidecar.health"));
});

// What may succeed later is 503, wrong parameters are 422, and all else is 502.
app.use((error, _, response, next) => {
  if (!(error instanceof DspexError)) return next(error);
  const status = error.retryable ? 503 : error.code === "invalid_params" ? 422 : 502;
  response.status(status).json({ code: error.code, message: error.message });
});

const host = process.env.HOST ?? "127.0.0.1"; // a container's is 0.0.0.0
const server = app.listen(Number(process.env.PORT ?? 3000), host, () => {
  console.log(`http://${host}:${server.address().port}`);
});
process.once("SIGTERM", () => server.close(() => client.close()));
