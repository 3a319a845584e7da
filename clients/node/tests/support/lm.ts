// A language model behind a real HTTP server, which speaks as OpenAI's chat completions do.

import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type LM = { base: string; close: () => void };

/** One that answers a prompt with JSON of what this returns. */
export async function startLM(answer: (prompt: string) => Record<string, unknown>): Promise<LM> {
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (data) => {
      body += data;
    });
    request.on("end", () => {
      const asked = JSON.parse(body);
      const prompt = asked.messages.map((message: { content: string }) => message.content).join("\n");
      const content = JSON.stringify(answer(prompt));
      if (asked.stream) inPieces(response, content);
      else whole(response, content);
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  return { base: `http://127.0.0.1:${port}/v1`, close: () => server.close().closeAllConnections() };
}

/** These values, for whichever outputs the prompt asks for. */
export function named(answers: Record<string, unknown>): (prompt: string) => Record<string, unknown> {
  return (prompt) =>
    Object.fromEntries(Object.entries(answers).filter(([name]) => new RegExp(`\\b${name}\\b`).test(prompt)));
}

const COMMON = { id: "x", created: 1, model: "fake" };
const USAGE = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };

function whole(response: ServerResponse, content: string): void {
  const choices = [{ index: 0, finish_reason: "stop", message: { role: "assistant", content } }];
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ ...COMMON, object: "chat.completion", choices, usage: USAGE }));
}

function inPieces(response: ServerResponse, content: string): void {
  response.setHeader("content-type", "text/event-stream");
  const send = (choice: object): void => {
    const choices = [{ index: 0, ...choice }];
    response.write(`data: ${JSON.stringify({ ...COMMON, object: "chat.completion.chunk", choices })}\n\n`);
  };
  for (const piece of content.match(/.{1,8}/gs) ?? []) send({ delta: { role: "assistant", content: piece } });
  send({ delta: {}, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
}
