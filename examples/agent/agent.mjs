// A ReAct program whose tools are functions here: `node agent.mjs "What does tea cost?"`.

import { connect } from "dspex";

const PRICES = { tea: 3, coffee: 4 };

const client = await connect({ waitMs: 10_000 });
const session = await client.createSession();
await session.configureLM("local");

session.offer("price", ({ item }, { signal }) => {
  signal.throwIfAborted();
  if (!(item in PRICES)) throw new RangeError(`there is no ${item}; there are ${Object.keys(PRICES).join(", ")}`);
  return { euros: PRICES[item] };
});
const tools = [
  {
    name: "price",
    description: "The price of an item.",
    schema: { type: "object", properties: { item: { type: "string" } }, required: ["item"] },
  },
];
const agent = await session.createProgram("agent", "question -> answer", { module: "react", tools });
const { answer, trajectory } = await agent({ question: process.argv[2] ?? "What does tea cost?" });
console.log(trajectory.tool_name_0, trajectory.observation_0);
console.log(answer);
await session.end();
await client.close();
